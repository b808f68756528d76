//! The directory of `cordon dev`: settings, keys, tokens, and the private PostgreSQL cluster. Other commands find it
//! here and work on the same installation, whether `dev` is running or not.

use crate::auth::dev::DevIssuer;
use crate::cluster::{Cluster, ClusterError, Durability, Options};
use crate::config::Settings;
use crate::ops::OpsError;
use crate::ops::operator::fresh_password;
use nix::unistd::{Uid, User};
use secrecy::{ExposeSecret, SecretString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Environment variable that overrides both directories.
const VARIABLE: &str = "CORDON_DEV_DIR";
/// The directory's name in a checkout.
const DIRECTORY: &str = ".cordon";
/// Root's clusters are here, because the user that PostgreSQL runs as must be able to enter the directory.
const ROOT_CLUSTERS: &str = "/var/lib/cordon";
/// Length of the explorer's key: 128 bits in hex.
const EXPLORER_KEY_CHARS: usize = 32;

/// The directories of a `dev`.
pub struct Home {
    /// Settings, keys and tokens.
    pub dir: PathBuf,
    /// The PostgreSQL cluster.
    pub cluster: PathBuf,
}

impl Home {
    /// Creates what is missing.
    ///
    /// # Errors `Refused` when the directory belongs to another user, or when a process still uses a cluster whose keys
    /// are gone.
    pub fn make() -> Result<Self, OpsError> {
        let home = Self::at(std::env::var_os(VARIABLE).map(PathBuf::from))?;
        home.refuse_of_another_user()?;
        home.set_aside_without_keys()?;
        std::fs::write(home.dir.join("cluster"), format!("{}\n", home.cluster.display()))?;
        Ok(home)
    }

    /// Two users cannot share a directory: keys and tokens are readable by their owner only, and PostgreSQL must own
    /// its files.
    fn refuse_of_another_user(&self) -> Result<(), OpsError> {
        let (owner, me) = (Uid::from_raw(std::fs::metadata(&self.dir)?.uid()), Uid::effective());
        if owner == me {
            return Ok(());
        }
        let name = |uid: Uid| User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let (dir, owner, me) = (self.dir.display(), name(owner), name(me));
        Err(OpsError::Refused(format!(
            "{dir} belongs to {owner}, and this is {me}: remove it, or name another directory in {VARIABLE}"
        )))
    }

    /// Moves a cluster aside whose keys are gone, because nobody can decrypt its data any more. Only the latest such
    /// cluster is kept.
    fn set_aside_without_keys(&self) -> Result<(), OpsError> {
        if self.dir.join("keys.json").exists() || !self.cluster.join("data").exists() {
            return Ok(());
        }
        let free = std::fs::File::open(self.cluster.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if !free {
            return Err(OpsError::Refused(format!(
                "a process still uses {}, whose keys are gone: stop it first",
                self.cluster.display()
            )));
        }
        let aside = self.cluster.with_extension("without-keys");
        if aside.exists() {
            std::fs::remove_dir_all(&aside)?;
        }
        std::fs::rename(&self.cluster, &aside)?;
        tracing::warn!("The keys of an earlier `dev` are gone; its PostgreSQL was moved to {}", aside.display());
        Ok(())
    }

    /// The path of the directory, which may not exist yet.
    pub fn directory() -> PathBuf {
        std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(DIRECTORY), PathBuf::from)
    }

    /// The directory of a `dev` that ran here before. `None` when there is none, or when the settings name another
    /// installation.
    pub fn found(settings: &Settings) -> Option<Self> {
        if settings.catalog.url.is_some() || settings.catalog.operator_url.is_some() {
            return None;
        }
        let dir = Self::directory();
        let cluster = PathBuf::from(std::fs::read_to_string(dir.join("cluster")).ok()?.trim());
        dir.join("operator.env").exists().then_some(Self { dir, cluster })
    }

    /// Points `settings` at this installation. Starts its PostgreSQL if it is not running; the cluster then stops with
    /// the returned value.
    pub fn enter(&self, settings: &mut Settings) -> Result<Option<Cluster>, OpsError> {
        self.refuse_of_another_user()?;
        self.fill(settings)?;
        tracing::info!("Working on the installation of `cordon dev` in {}", self.dir.display());
        match self.start() {
            Ok(cluster) => Ok(Some(cluster)),
            Err(ClusterError::InUse { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Starts the cluster. Blocks the thread until PostgreSQL accepts connections.
    pub fn start(&self) -> Result<Cluster, ClusterError> {
        let binaries = std::env::var_os("CORDON_POSTGRES_BIN").map(PathBuf::from);
        Cluster::start(&Options {
            dir: self.cluster.clone(),
            durability: Durability::Durable,
            binaries,
            settings: Vec::new(),
        })
    }

    /// Sets the URLs and the key file that `init` wrote, and the development issuer as the only issuer.
    pub fn fill(&self, settings: &mut Settings) -> Result<DevIssuer, OpsError> {
        settings.catalog.url = Some(setting(&self.dir.join("server.env"), "CORDON__CATALOG__URL")?.into());
        settings.catalog.operator_url =
            Some(setting(&self.dir.join("operator.env"), "CORDON__CATALOG__OPERATOR_URL")?.into());
        settings.keys.file = Some(self.dir.join("keys.json"));
        let issuer = DevIssuer::open(&self.dir, &settings.auth.audience)?;
        settings.auth.issuers = vec![issuer.settings()];
        Ok(issuer)
    }

    /// The key of the explorer's link. It stays the same over restarts, so that an open page and a bookmark go on
    /// working.
    pub fn explorer_key(&self) -> Result<SecretString, OpsError> {
        let path = self.dir.join("explorer-key");
        if let Some(key) = std::fs::read_to_string(&path).ok().filter(|key| key.len() >= EXPLORER_KEY_CHARS) {
            return Ok(key.into());
        }
        let password = fresh_password();
        let key: String = password.expose_secret().chars().take(EXPLORER_KEY_CHARS).collect();
        super::write_private(&path, &key)?;
        Ok(key.into())
    }

    /// A file of HTTP headers with the clinician's token of a tenant, for `curl -H @FILE`.
    pub fn headers_file(&self, slug: &str) -> PathBuf {
        self.dir.join(format!("{slug}.headers"))
    }

    fn at(chosen: Option<PathBuf>) -> Result<Self, OpsError> {
        let (dir, own) = match chosen {
            Some(dir) => (dir, true),
            None => (PathBuf::from(DIRECTORY), false),
        };
        std::fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        let cluster = match nix::unistd::geteuid().is_root() && !own {
            true => Path::new(ROOT_CLUSTERS).join(format!("{:016x}", digest(&dir))),
            false => dir.join("pg"),
        };
        Ok(Self { dir, cluster })
    }
}

fn digest(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// Reads a variable from a file that `init` wrote.
fn setting(file: &Path, variable: &str) -> Result<String, OpsError> {
    let text =
        std::fs::read_to_string(file).map_err(|error| OpsError::Failed(format!("{}: {error}", file.display())))?;
    let value = text.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
    let value = value.ok_or_else(|| OpsError::Failed(format!("{} holds no {variable}", file.display())))?;
    Ok(value.trim_matches('\'').to_owned())
}

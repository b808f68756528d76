//! Where `cordon dev` keeps what it makes: a directory with settings, keys and tokens, and the private PostgreSQL.
//! Other commands find it here and work on the same installation, whether `dev` is up or not.

use crate::auth::dev::DevIssuer;
use crate::cluster::{Cluster, ClusterError, Durability, Options};
use crate::config::Settings;
use crate::ops::OpsError;
use nix::unistd::{Uid, User};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Overrides where everything lies.
const VARIABLE: &str = "CORDON_DEV_DIR";
/// In a checkout.
const DIRECTORY: &str = ".cordon";
/// Where root's clusters lie: the user that PostgreSQL runs as must get there.
const OF_ROOT: &str = "/var/lib/cordon";

/// The directory of a `dev`.
pub struct Home {
    /// Settings, keys, tokens.
    pub dir: PathBuf,
    /// The cluster's directory.
    pub cluster: PathBuf,
}

impl Home {
    /// Makes what is missing.
    pub fn make() -> Result<Self, OpsError> {
        let home = Self::of(std::env::var_os(VARIABLE).map(PathBuf::from))?;
        home.refuse_of_another_user()?;
        home.set_aside_without_keys()?;
        std::fs::write(home.dir.join("cluster"), format!("{}\n", home.cluster.display()))?;
        Ok(home)
    }

    /// Keys and tokens are for their owner alone, and PostgreSQL runs as someone its files belong to: no two users share one.
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

    /// A cluster whose keys were removed with the directory that held them opens for nobody. It makes room for a new one; the last such is kept.
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

    /// Where it is, made or not.
    pub fn directory() -> PathBuf {
        std::env::var_os(VARIABLE).map_or_else(|| PathBuf::from(DIRECTORY), PathBuf::from)
    }

    /// The one that `dev` made here, when the settings name no other installation.
    pub fn found(settings: &Settings) -> Option<Self> {
        if settings.catalog.url.is_some() || settings.catalog.operator_url.is_some() {
            return None;
        }
        let dir = Self::directory();
        let cluster = PathBuf::from(std::fs::read_to_string(dir.join("cluster")).ok()?.trim());
        dir.join("operator.env").exists().then_some(Self { dir, cluster })
    }

    /// Points `settings` at this installation, and starts its PostgreSQL when nobody has; the command's run then owns it.
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

    /// Starts the cluster. Blocks.
    pub fn start(&self) -> Result<Cluster, ClusterError> {
        let binaries = std::env::var_os("CORDON_POSTGRES_BIN").map(PathBuf::from);
        Cluster::start(&Options {
            dir: self.cluster.clone(),
            durability: Durability::Durable,
            binaries,
            settings: Vec::new(),
        })
    }

    /// Puts in what `init` wrote, and the issuer.
    pub fn fill(&self, settings: &mut Settings) -> Result<DevIssuer, OpsError> {
        settings.catalog.url = Some(setting(&self.dir.join("server.env"), "CORDON__CATALOG__URL")?.into());
        settings.catalog.operator_url =
            Some(setting(&self.dir.join("operator.env"), "CORDON__CATALOG__OPERATOR_URL")?.into());
        settings.keys.file = Some(self.dir.join("keys.json"));
        let issuer = DevIssuer::open(&self.dir, &settings.auth.audience)?;
        settings.auth.issuers = vec![issuer.settings()];
        Ok(issuer)
    }

    fn of(chosen: Option<PathBuf>) -> Result<Self, OpsError> {
        let (dir, own) = match chosen {
            Some(dir) => (dir, true),
            None => (PathBuf::from(DIRECTORY), false),
        };
        std::fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        let cluster = match nix::unistd::geteuid().is_root() && !own {
            true => Path::new(OF_ROOT).join(format!("{:016x}", digest(&dir))),
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

/// One variable of a file that `init` wrote.
fn setting(file: &Path, variable: &str) -> Result<String, OpsError> {
    let text =
        std::fs::read_to_string(file).map_err(|error| OpsError::Failed(format!("{}: {error}", file.display())))?;
    let value = text.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
    let value = value.ok_or_else(|| OpsError::Failed(format!("{} holds no {variable}", file.display())))?;
    Ok(value.trim_matches('\'').to_owned())
}

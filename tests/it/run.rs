//! What all tests of one run share: a directory of the run's own, and one PostgreSQL in it that ends with the run.

use cordon::cluster::{Cluster, Durability, Options};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The PostgreSQL that tests share. A test that alters roles, kills PostgreSQL or reads its files starts one of its own, from `options`.
pub fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(&options("shared")).unwrap_or_else(|error| panic!("{error}")))
}

/// A PostgreSQL of a test's own.
pub fn cluster_of_own(name: &str) -> Cluster {
    Cluster::start(&options(name)).unwrap_or_else(|error| panic!("{error}"))
}

/// Options of a cluster that dies with the run, in a directory of this name.
pub fn options(name: &str) -> Options {
    Options {
        dir: run_dir().join(name),
        durability: Durability::Scratch,
        binaries: std::env::var_os("CORDON_POSTGRES_BIN").map(PathBuf::from),
        settings: vec![("max_connections".into(), "400".into())],
    }
}

/// This run's directory. Those of runs that are over are removed first, because no code runs at the very end of a test process.
pub fn run_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let place = std::env::temp_dir();
        for entry in std::fs::read_dir(&place).unwrap().flatten() {
            let owner = entry.file_name().to_str().and_then(|name| name.strip_prefix("cordon-it-")?.parse().ok());
            if owner.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)) {
                // Another user's is not ours to remove, and two runs may meet here.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let dir = place.join(format!("cordon-it-{}", std::process::id()));
        DirBuilder::new().mode(0o711).create(&dir).unwrap();
        dir
    })
}

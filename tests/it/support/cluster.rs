//! The directory of a test run and the PostgreSQL cluster in it. The cluster stops when the run ends.

use cordon::cluster::{Cluster, Durability, Options};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Returns the cluster that tests share. A test that alters roles, kills PostgreSQL or reads its files starts a cluster
/// of its own.
pub fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(&options("shared")).unwrap_or_else(|error| panic!("{error}")))
}

/// Starts a cluster for one test.
pub fn cluster_of_own(name: &str) -> Cluster {
    Cluster::start(&options(name)).unwrap_or_else(|error| panic!("{error}"))
}

/// Returns the options of a cluster in the directory `name` of this run. It is not durable.
pub fn options(name: &str) -> Options {
    Options {
        dir: run_dir().join(name),
        durability: Durability::NonDurable,
        binaries: std::env::var_os("CORDON_POSTGRES_BIN").map(PathBuf::from),
        settings: vec![("max_connections".into(), "400".into())],
    }
}

/// Returns the directory of this run. It is removed when the run ends. Directories of earlier runs that could not be
/// removed are removed first.
pub fn run_dir() -> &'static Path {
    static DIR: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (dir, _remover) = DIR.get_or_init(|| {
        let temporary = std::env::temp_dir();
        for entry in std::fs::read_dir(&temporary).unwrap().flatten() {
            let owner = entry.file_name().to_str().and_then(|name| name.strip_prefix("cordon-it-")?.parse().ok());
            if owner.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)) {
                // This fails for the directory of another user, and when two runs remove the same one.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let dir = temporary.join(format!("cordon-it-{}", std::process::id()));
        DirBuilder::new().mode(0o711).create(&dir).unwrap();
        let remover = remove_after_this_process(&dir);
        (dir, remover)
    });
    dir
}

/// Starts a shell that removes the directory after this process, because no code runs at the end of a test process. The
/// shell reads a pipe that this process never writes to, and that the system closes when this process ends, however it
/// ends. PostgreSQL stops at the same moment. The shell waits for it, so that nothing is written into the directory
/// while it is removed.
fn remove_after_this_process(dir: &Path) -> Child {
    const SCRIPT: &str = r#"
        trap '' INT TERM HUP
        cat >/dev/null
        servers() { find "$1" -name postmaster.pid -exec head -n 1 {} \; 2>/dev/null; }
        running() { for pid in $(servers "$1"); do kill -0 "$pid" 2>/dev/null && return 0; done; return 1; }
        for _ in $(seq 100); do running "$1" || break; sleep 0.1; done
        for _ in $(seq 100); do rm -rf "$1" 2>/dev/null; [ -e "$1" ] || break; sleep 0.1; done
    "#;
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT, "sh"]).arg(dir).current_dir("/");
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

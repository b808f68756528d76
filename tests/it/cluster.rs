//! The private PostgreSQL cluster: its settings, its access, and its recovery after kills, power cuts and upgrades.

use crate::support::{cluster, options, run_dir};
use cordon::cluster::{Binaries, Cluster, ClusterError, Durability, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use secrecy::ExposeSecret;
use std::fs::{Permissions, read_to_string, write};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

#[test]
fn listens_on_a_unix_socket_only() {
    let cluster = cluster();
    assert_eq!(sql(cluster, "show listen_addresses"), "");
    let pid_file = sql(cluster, "select pg_read_file('postmaster.pid')");
    assert_eq!(pid_file.lines().nth(5).map(str::trim), Some(""), "no TCP address in {pid_file}");
    assert!(cluster.socket_dir().join(".s.PGSQL.5432").as_os_str().len() < 100);
    assert_eq!(
        std::fs::metadata(cluster.socket_dir()).unwrap().mode() & 0o077,
        0,
        "only the server's user can reach the socket"
    );
    assert_eq!(sql(cluster, "show max_prepared_transactions"), "0");
    assert_eq!(sql(cluster, "show server_encoding"), "UTF8");
}

#[test]
fn rejects_a_wrong_password() {
    let url = cluster().superuser_url("postgres");
    assert_eq!(sql(cluster(), "show password_encryption"), "scram-sha-256");
    let (head, tail) = url.expose_secret().split_once('@').unwrap();
    let wrong = format!("{}x@{tail}", &head[..head.len() - 1]);
    let error = block_on(tokio_postgres::connect(&wrong, NoTls)).err().expect("a refusal");
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INVALID_PASSWORD));
    let file = std::fs::metadata(run_dir().join("shared/superuser")).unwrap();
    assert_eq!(file.mode() & 0o777, 0o600);
}

#[test]
fn run_by_root_postgresql_runs_as_another_user() {
    let server = std::fs::metadata(format!("/proc/{}", cluster().pid())).unwrap().uid();
    if !geteuid().is_root() {
        return assert_eq!(server, geteuid().as_raw());
    }
    assert_ne!(server, 0);
    let home = run_dir().join("home-of-root");
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, Permissions::from_mode(0o700)).unwrap();
    let error = Cluster::start(&Options { dir: home.join("cluster"), ..options("") }).unwrap_err();
    assert!(matches!(&error, ClusterError::Unreachable { path, .. } if *path == home), "{error}");
}

#[test]
fn durability_depends_on_the_options() {
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        assert_eq!(sql(cluster(), &format!("show {setting}")), "off");
    }
    // The path is too long for a socket, and the name needs quoting.
    let dir = run_dir().join("d \"u\" ,r%".repeat(12));
    let cluster = Cluster::start(&Options { dir, durability: Durability::Durable, ..options("") }).unwrap();
    for setting in ["fsync", "full_page_writes", "synchronous_commit", "data_checksums"] {
        assert_eq!(sql(&cluster, &format!("show {setting}")), "on");
    }
    let sockets = cluster.socket_dir().to_owned();
    assert!(sockets.starts_with("/tmp") && sockets.join(".s.PGSQL.5432").as_os_str().len() < 100);
    cluster.stop();
    assert!(!sockets.exists(), "a stopped cluster leaves nothing outside its directory");
}

#[test]
fn comes_back_after_a_sigkill_with_a_busy_backend() {
    let cluster = Cluster::start(&Options { durability: Durability::Durable, ..options("killed") }).unwrap();
    sql(&cluster, "create table kept as select 'a chart' as what");
    let before = cluster.pid();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let url = cluster.superuser_url("postgres");
    runtime.spawn(async move {
        connect(url.expose_secret()).await.batch_execute("select count(*) from generate_series(1, 1e15)").await
    });
    wait_for(|| {
        sql(
            &cluster,
            "select count(*) from pg_stat_activity where query like '%generate_series(1, 1e15)' and state = 'active'",
        ) == "1"
    });
    kill(Pid::from_raw(before.try_into().unwrap()), Signal::SIGKILL).unwrap();
    wait_for(|| ![0, before].contains(&cluster.pid()));
    assert_eq!(sql(&cluster, "select what from kept"), "a chart");
    let pid = cluster.pid();
    cluster.stop();
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "stop waits until the process has ended");
}

/// The test starts itself as a second process, with the directory in its environment. That process starts the cluster
/// and is killed.
#[test]
fn starts_again_after_a_sigkill_of_its_parent() {
    if let Some(dir) = std::env::var_os("CORDON_IT_PARENT_OF") {
        let cluster = Cluster::start(&Options { dir: dir.into(), ..options("") }).unwrap();
        sql(&cluster, "create table kept as select 'a chart' as what; checkpoint");
        println!("\nserver {}", cluster.pid());
        std::thread::sleep(Duration::from_secs(120));
        return;
    }
    let options = options("orphaned");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cluster::starts_again_after_a_sigkill_of_its_parent", "--nocapture"])
        .env("CORDON_IT_PARENT_OF", &options.dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let server = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("server ")?.parse::<i32>().ok())
        .expect("a server");
    let refused = Cluster::start(&options).unwrap_err();
    assert!(matches!(&refused, ClusterError::InUse { pid, .. } if *pid == parent.id().to_string()), "{refused}");

    parent.kill().unwrap();
    parent.wait().unwrap();
    let cluster = Cluster::start(&options).unwrap();
    assert_eq!(sql(&cluster, "select what from kept"), "a chart");
    assert!(std::fs::read_link(format!("/proc/{server}/cwd")).is_err(), "the server ends with its parent");
}

#[test]
fn removes_stale_files_but_not_files_in_use() {
    let options = options("stale");
    std::fs::create_dir(&options.dir).unwrap();
    std::fs::set_permissions(&options.dir, Permissions::from_mode(0o700)).unwrap();
    let cluster = Cluster::start(&options).unwrap();
    let refused = Cluster::start(&options).unwrap_err().to_string();
    assert!(refused.contains(&format!("is in use by process {}", std::process::id())), "{refused}");
    let sockets = cluster.socket_dir().to_owned();
    sql(&cluster, "create table kept as select 'a chart' as what");
    cluster.stop();

    // After a power cut the process ids in the files belong to other processes. In addition, an initdb that was killed
    // left its directory.
    let pid_file = format!("{}\n{}\n", std::process::id(), options.dir.join("data").display());
    write(options.dir.join("data/postmaster.pid"), &pid_file).unwrap();
    std::fs::create_dir(options.dir.join("data.new")).unwrap();
    write(options.dir.join("data.new/PG_VERSION"), "15").unwrap();
    let owner = std::fs::metadata(&options.dir).unwrap();
    std::fs::create_dir(&sockets).unwrap();
    write(sockets.join(".s.PGSQL.5432.lock"), pid_file).unwrap();
    std::fs::set_permissions(&sockets, Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&sockets, Some(owner.uid()), Some(owner.gid())).unwrap();
    let cluster = Cluster::start(&options).unwrap();
    assert_eq!(sql(&cluster, "select what from kept"), "a chart");
}

#[test]
fn restarts_after_an_upgrade_of_its_programs() {
    let real = Binaries::find(options("").binaries.as_deref()).unwrap();
    let bin = run_dir().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(real.program("initdb"), bin.join("initdb")).unwrap();
    let install = |minor: u32| {
        let (program, major) = (real.program("postgres"), real.version().major);
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = --version ] && exec echo 'postgres (PostgreSQL) {major}.{minor}'\nexec {} \"$@\"\n",
            program.display()
        );
        write(bin.join("unpacked"), script).unwrap();
        std::fs::set_permissions(bin.join("unpacked"), Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(bin.join("unpacked"), bin.join("postgres")).unwrap();
    };
    install(97);
    let cluster = Cluster::start(&Options { binaries: Some(bin.clone()), ..options("upgraded") }).unwrap();
    let before = cluster.pid();
    sql(&cluster, "create table kept as select 'a chart' as what");
    install(97);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(cluster.pid(), before, "the same version is no upgrade");
    install(98);
    wait_for(|| ![0, before].contains(&cluster.pid()));
    assert_eq!(sql(&cluster, "select what from kept"), "a chart");
}

#[test]
fn data_of_another_major_version_names_the_missing_programs() {
    let options = options("other-major");
    Cluster::start(&options).unwrap().stop();
    write(options.dir.join("data/PG_VERSION"), "9\n").unwrap();
    let missing = Cluster::start(&options).unwrap_err();
    assert!(matches!(missing, ClusterError::MissingBinaries(_)), "{missing}");
    if options.binaries.is_none() {
        assert!(missing.to_string().contains("apt-get install -y postgresql-9"), "{missing}");
    }
}

#[test]
fn a_failed_start_names_the_reason() {
    let settings = vec![("shared_buffers".into(), "all".into())];
    let refused = Cluster::start(&Options { settings, ..options("refused") }).unwrap_err().to_string();
    assert!(refused.contains("invalid value for parameter \"shared_buffers\""), "{refused}");
    let log = read_to_string(run_dir().join("refused/log")).unwrap();
    assert!(log.contains("shared_buffers"));
}

/// Runs statements and returns the first column of the last row.
fn sql(cluster: &Cluster, text: &str) -> String {
    let url = cluster.superuser_url("postgres");
    let messages = block_on(async { connect(url.expose_secret()).await.simple_query(text).await.unwrap() });
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    rows.last().unwrap_or_default().to_owned()
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn wait_for(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "waited for 30 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

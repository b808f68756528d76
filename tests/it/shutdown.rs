//! Shutdown of a server: running requests are answered, no new ones start, it takes a bounded time, and no session
//! remains in PostgreSQL.

use crate::cli::{Desk, OPERATOR, Served};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const READS: &str = "{ patients { nodes { id } } }";

/// An installation with one tenant, and a token for it.
struct Installation {
    desk: Desk,
    token: String,
    schema: String,
}

impl Installation {
    fn new(name: &str) -> Self {
        let desk = Desk::new(name);
        desk.json(&[], &["init", "--admin-url-env", "ADMIN_URL"]);
        let tenant = desk.json(OPERATOR, &["tenant", "create", "lakeside", "--name", "A clinic"]);
        let id = tenant["id"].as_str().unwrap();
        let token = desk.json(&[], &["token", "--profile", "dev", "--tenant-id", id, "--role", "clinician"]);
        let token = token["token"].as_str().unwrap().to_owned();
        Self { desk, token, schema: tenant["placement"]["schema"].as_str().unwrap().to_owned() }
    }

    async fn superuser(&self, database: &str) -> Client {
        let config: tokio_postgres::Config = self.desk.cluster.superuser_url(database).expose_secret().parse().unwrap();
        crate::support::site::connect_session(&config).await
    }

    /// Starts a request that waits for a lock. Returns the session that holds the lock, and the response.
    async fn start_blocked_request(&self, served: &Served) -> (Client, tokio::task::JoinHandle<Option<(u16, Value)>>) {
        let holder = self.superuser("cordon_data").await;
        let table = format!("{}.patients", self.schema);
        holder.batch_execute(&format!("begin; lock table {table} in access exclusive mode")).await.unwrap();
        let request =
            reqwest::Client::new().post(&served.url).bearer_auth(&self.token).json(&json!({ "query": READS }));
        let answer = tokio::spawn(async move {
            let answer = request.send().await.ok()?;
            Some((answer.status().as_u16(), answer.json().await.ok()?))
        });
        let started = Instant::now();
        let waiting = "select count(*) from pg_locks where not granted";
        while holder.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(started.elapsed() < Duration::from_secs(10), "the request does not wait for the lock");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (holder, answer)
    }

    /// Counts the sessions of the server in PostgreSQL.
    async fn count_sessions(&self) -> i64 {
        let sessions = "select count(*) from pg_stat_activity where usename in ('cordon_app', 'cordon_catalog_reader')";
        self.superuser("postgres").await.query_one(sessions, &[]).await.unwrap().get(0)
    }
}

fn send_signal(served: &Served, signal: Signal) {
    kill(Pid::from_raw(served.child.id().try_into().unwrap()), signal).unwrap();
}

/// Waits until the process ends. Returns its exit code and how long that took.
async fn wait_for_exit(served: &mut Served, within: Duration) -> (Option<i32>, Duration) {
    let started = Instant::now();
    loop {
        if let Some(status) = served.child.try_wait().unwrap() {
            return (status.code(), started.elapsed());
        }
        assert!(started.elapsed() < within, "the process is still running after {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_requests_are_answered() {
    let installation = tokio::task::spawn_blocking(|| Installation::new("stop")).await.unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut served = installation
            .desk
            .serve_with(&[("CORDON__HTTP__NOTICE_SECONDS", "1"), ("CORDON__HTTP__DRAIN_SECONDS", "10")]);
        let ready = served.url.replace("/graphql", "/readyz");
        assert_eq!(reqwest::Client::new().get(&ready).send().await.unwrap().status().as_u16(), 200);
        let (holder, answer) = installation.start_blocked_request(&served).await;
        // An idle connection must not delay the shutdown.
        let idle = reqwest::Client::new();
        assert_eq!(idle.get(&ready).send().await.unwrap().status().as_u16(), 200);
        send_signal(&served, signal);
        tokio::time::sleep(Duration::from_millis(300)).await;
        // After the signal the server is not ready, but it serves new requests until the notice period ends.
        let response = reqwest::Client::new().get(&ready).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 503);
        assert_eq!(response.json::<Value>().await.unwrap()["status"], "stopping");
        let started = Instant::now();
        while reqwest::Client::new().get(&ready).send().await.is_ok() {
            assert!(started.elapsed() < Duration::from_secs(3), "the listener is still open");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(
            served.child.try_wait().unwrap().is_none() && !answer.is_finished(),
            "the server waits for the running request"
        );
        holder.batch_execute("rollback").await.unwrap();
        let (status, body) = answer.await.unwrap().expect("an answer");
        assert_eq!((status, &body["data"]["patients"]["nodes"]), (200, &json!([])), "{body}");
        let (code, took) = wait_for_exit(&mut served, Duration::from_secs(6)).await;
        println!("{signal}: ended {took:?} after the last response");
        assert_eq!(code, Some(0));
        assert_eq!(installation.count_sessions().await, 0, "no session remains in PostgreSQL");
    }
    let log = std::fs::read_to_string(crate::support::run_dir().join("stop/log")).unwrap();
    assert!(!log.contains("with an open transaction"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_takes_a_bounded_time() {
    let installation = tokio::task::spawn_blocking(|| Installation::new("stop-late")).await.unwrap();
    // A request that takes longer than the drain period is aborted.
    let mut served = installation
        .desk
        .serve_with(&[("CORDON__HTTP__DRAIN_SECONDS", "1"), ("CORDON__DATABASE__LOCK_TIMEOUT_MS", "9000")]);
    let (holder, answer) = installation.start_blocked_request(&served).await;
    send_signal(&served, Signal::SIGTERM);
    let (code, took) = wait_for_exit(&mut served, Duration::from_secs(5)).await;
    println!("a drain of 1 s ended after {took:?}");
    assert_eq!((code, answer.await.unwrap()), (Some(0), None));
    drop(holder);

    // A second signal ends the server immediately.
    let mut served =
        installation.desk.serve_with(&[("CORDON__HTTP__DRAIN_SECONDS", "60"), ("CORDON__HTTP__NOTICE_SECONDS", "60")]);
    let (_holder, answer) = installation.start_blocked_request(&served).await;
    send_signal(&served, Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(served.child.try_wait().unwrap().is_none());
    send_signal(&served, Signal::SIGINT);
    let (code, took) = wait_for_exit(&mut served, Duration::from_secs(2)).await;
    println!("after two signals, it ended after {took:?}");
    assert_eq!((code, answer.await.unwrap()), (Some(130), None));
}

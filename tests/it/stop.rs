//! The end of a server: what is in flight is answered, nothing new begins, it takes bounded time, and PostgreSQL keeps nothing of it.

use crate::cli::{Desk, OPERATOR, Served};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const READS: &str = "{ patients { nodes { id } } }";

struct Stage {
    desk: Desk,
    token: String,
    schema: String,
}

impl Stage {
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
        crate::site::open(&config).await
    }

    /// A request that waits for a lock until `end` of the client that holds it.
    async fn in_flight(&self, served: &Served) -> (Client, tokio::task::JoinHandle<Option<(u16, Value)>>) {
        let holder = self.superuser("cordon_data").await;
        let table = format!("{}.patients", self.schema);
        holder.batch_execute(&format!("begin; lock table {table} in access exclusive mode")).await.unwrap();
        let request =
            reqwest::Client::new().post(&served.url).bearer_auth(&self.token).json(&json!({ "query": READS }));
        let answer = tokio::spawn(async move {
            let answer = request.send().await.ok()?;
            Some((answer.status().as_u16(), answer.json().await.ok()?))
        });
        let began = Instant::now();
        let waiting = "select count(*) from pg_locks where not granted";
        while holder.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(began.elapsed() < Duration::from_secs(10), "the request does not wait");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (holder, answer)
    }

    /// How many sessions of the server PostgreSQL still has.
    async fn sessions(&self) -> i64 {
        let sessions = "select count(*) from pg_stat_activity where usename in ('cordon_app', 'cordon_catalog_reader')";
        self.superuser("postgres").await.query_one(sessions, &[]).await.unwrap().get(0)
    }
}

fn tell(served: &Served, signal: Signal) {
    kill(Pid::from_raw(served.child.id().try_into().unwrap()), signal).unwrap();
}

/// Waits for the end; its exit code and how long it took.
async fn ended(served: &mut Served, within: Duration) -> (Option<i32>, Duration) {
    let began = Instant::now();
    loop {
        if let Some(status) = served.child.try_wait().unwrap() {
            return (status.code(), began.elapsed());
        }
        assert!(began.elapsed() < within, "it is still there after {within:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_answered() {
    let stage = tokio::task::spawn_blocking(|| Stage::new("stop")).await.unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut served =
            stage.desk.serve_with(&[("CORDON__HTTP__NOTICE_SECONDS", "1"), ("CORDON__HTTP__DRAIN_SECONDS", "10")]);
        let ready = served.url.replace("/graphql", "/readyz");
        assert_eq!(reqwest::Client::new().get(&ready).send().await.unwrap().status().as_u16(), 200);
        let (holder, answer) = stage.in_flight(&served).await;
        // A connection that is kept and idle must not hold the end up.
        let idle = reqwest::Client::new();
        assert_eq!(idle.get(&ready).send().await.unwrap().status().as_u16(), 200);
        tell(&served, signal);
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Told: not ready any more, but who still comes is served until the notice is over.
        let told = reqwest::Client::new().get(&ready).send().await.unwrap();
        assert_eq!(told.status().as_u16(), 503);
        assert_eq!(told.json::<Value>().await.unwrap()["status"], "stopping");
        let began = Instant::now();
        while reqwest::Client::new().get(&ready).send().await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(3), "the listener closes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(served.child.try_wait().unwrap().is_none() && !answer.is_finished(), "it waits for what is in flight");
        holder.batch_execute("rollback").await.unwrap();
        let (status, body) = answer.await.unwrap().expect("an answer");
        assert_eq!((status, &body["data"]["patients"]["nodes"]), (200, &json!([])), "{body}");
        let (code, took) = ended(&mut served, Duration::from_secs(6)).await;
        println!("{signal}: ended {took:?} after the last answer");
        assert_eq!(code, Some(0));
        assert_eq!(stage.sessions().await, 0, "PostgreSQL keeps nothing of it");
    }
    let log = std::fs::read_to_string(crate::run_dir().join("stop/log")).unwrap();
    assert!(!log.contains("with an open transaction"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_comes_in_bounded_time() {
    let stage = tokio::task::spawn_blocking(|| Stage::new("stop-late")).await.unwrap();
    // Longer than the drain: cut off.
    let mut served =
        stage.desk.serve_with(&[("CORDON__HTTP__DRAIN_SECONDS", "1"), ("CORDON__DATABASE__LOCK_TIMEOUT_MS", "9000")]);
    let (holder, answer) = stage.in_flight(&served).await;
    tell(&served, Signal::SIGTERM);
    let (code, took) = ended(&mut served, Duration::from_secs(5)).await;
    println!("a drain of 1 s ended after {took:?}");
    assert_eq!((code, answer.await.unwrap()), (Some(0), None));
    drop(holder);

    // Told twice: at once.
    let mut served =
        stage.desk.serve_with(&[("CORDON__HTTP__DRAIN_SECONDS", "60"), ("CORDON__HTTP__NOTICE_SECONDS", "60")]);
    let (_holder, answer) = stage.in_flight(&served).await;
    tell(&served, Signal::SIGTERM);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(served.child.try_wait().unwrap().is_none());
    tell(&served, Signal::SIGINT);
    let (code, took) = ended(&mut served, Duration::from_secs(2)).await;
    println!("told twice, it ended after {took:?}");
    assert_eq!((code, answer.await.unwrap()), (Some(130), None));
}

//! `cordon dev` through the binary: everything from nothing, found again the second time, shared with other commands.

use crate::run_dir;
use cordon::cluster::Binaries;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Dev {
    child: Child,
    said: Value,
    /// From the start of the process to its line.
    took: Duration,
    log: PathBuf,
}

fn cordon(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
    command.current_dir(home.parent().unwrap()).env("CORDON_DEV_DIR", home).args(arguments).stdin(Stdio::null());
    // Those of a checkout are found in a checkout only, and this is none.
    let binaries = Binaries::find(std::env::var_os("CORDON_POSTGRES_BIN").as_deref().map(Path::new)).unwrap();
    command.env("CORDON_POSTGRES_BIN", std::path::absolute(binaries.dir()).unwrap());
    command
}

impl Dev {
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let began = Instant::now();
        let mut command = cordon(home, &["dev", "--port", "0", "--json"]);
        let log = home.with_extension("log");
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}, {:?}", child.wait()));
        Self { child, said, took: began.elapsed(), log }
    }

    async fn ask(&self, tenant: usize, role: &str, query: &str) -> Value {
        let token = self.said["tenants"][tenant]["tokens"][role].as_str().unwrap();
        let request = reqwest::Client::new().post(self.said["graphqlUrl"].as_str().unwrap()).bearer_auth(token);
        request.json(&json!({ "query": query })).send().await.unwrap().json().await.unwrap()
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        assert!(self.child.wait().unwrap().success());
        let logged = std::fs::read_to_string(&self.log).unwrap();
        assert!(
            logged.contains("Serving ") && !logged.contains("notifications"),
            "it ends without a word of what it ends: {logged}"
        );
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn home(name: &str) -> PathBuf {
    run_dir().join(name).join("home")
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_makes_everything_and_finds_it_again() {
    let home = home("dev");
    std::fs::create_dir_all(&home).unwrap();
    let dev = Dev::start(&home, &[]);
    println!("first start in {:?}", dev.took);
    let models: Vec<_> =
        dev.said["tenants"].as_array().unwrap().iter().map(|tenant| tenant["slug"].as_str().unwrap()).collect();
    assert_eq!(models, ["riverside", "lakeside", "summit"]);
    let models: Vec<_> =
        dev.said["tenants"].as_array().unwrap().iter().map(|tenant| tenant["model"].as_str().unwrap()).collect();
    assert_eq!(models, ["shared", "schema", "database"]);
    let chart =
        "{ patients(first: 200) { edges { node { id name { text } notes(first: 1) { edges { node { body } } } } } } }";
    let mut charts = Vec::new();
    for tenant in 0..3 {
        let answer = dev.ask(tenant, "clinician", chart).await;
        let patients = answer["data"]["patients"]["edges"].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(patients.len(), 25);
        assert!(patients.iter().any(|edge| edge["node"]["notes"]["edges"][0]["node"]["body"].is_string()));
        assert_eq!(dev.ask(tenant, "auditor", chart).await["errors"][0]["extensions"]["code"], "FORBIDDEN");
        charts.push(answer);
    }
    assert_ne!(charts[0], charts[1], "each has charts of its own");
    // Another one is told who has the place; other commands work beside it.
    let second = cordon(&home, &["dev", "--port", "0"]).output().unwrap();
    assert_eq!(second.status.code(), Some(4), "{}", String::from_utf8_lossy(&second.stderr));
    let list = |home: &Path| {
        let output = cordon(home, &["tenant", "list", "--json"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(list(&home).as_array().unwrap().len(), 3);
    dev.stop();
    assert_eq!(list(&home).as_array().unwrap().len(), 3, "a command starts PostgreSQL for its own run");
    let again = Dev::start(&home, &[]);
    println!("second start in {:?}", again.took);
    assert!(again.took < Duration::from_secs(15));
    for (tenant, before) in charts.iter().enumerate() {
        assert_eq!(&again.ask(tenant, "clinician", chart).await, before, "nothing was lost or made twice");
    }
    again.stop();
    // Without its keys what is stored is noise: it is put aside, and all is made anew.
    std::fs::remove_file(home.join("keys.json")).unwrap();
    std::fs::remove_file(home.join("server.env")).unwrap();
    std::fs::remove_file(home.join("operator.env")).unwrap();
    let anew = Dev::start(&home, &["--empty"]);
    assert_eq!(anew.ask(1, "clinician", chart).await["data"]["patients"]["edges"], json!([]));
    assert!(home.join("pg.without-keys/data").exists());
    anew.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_says_what_to_paste() {
    let home = home("dev-text");
    std::fs::create_dir_all(&home).unwrap();
    let mut command = cordon(&home, &["dev", "--port", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let curl: Vec<String> = lines.by_ref().filter(|line| line.starts_with("curl ")).take(3).collect();
    for line in &curl {
        let between = |from: &str, to: char| line.split(from).nth(1).unwrap().split(to).next().unwrap().to_owned();
        let request = reqwest::Client::new().post(between("curl -s ", ' ')).bearer_auth(between("Bearer ", '\''));
        let request = request.header("content-type", "application/json").body(between("-d '", '\''));
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["data"]["patients"]["edges"][0]["node"]["name"]["text"].is_string(), "{line}: {answer}");
    }
    assert_eq!(curl.len(), 3);
    // A port that is taken is said before anything is made.
    let taken = curl[0].split("127.0.0.1:").nth(1).unwrap().split('/').next().unwrap();
    let elsewhere = run_dir().join("dev-taken/home");
    std::fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
    let refused = cordon(&elsewhere, &["dev", "--port", taken]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--port") && !elsewhere.exists());
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
}

/// What one user's `dev` has made holds keys that are for that user alone.
#[test]
fn dev_does_not_begin_in_the_directory_of_another_user() {
    let theirs = match nix::unistd::geteuid().is_root() {
        true => {
            let theirs = run_dir().join("dev-of-nobody");
            std::fs::create_dir(&theirs).unwrap();
            std::os::unix::fs::chown(&theirs, Some(65534), None).unwrap();
            theirs
        }
        false => PathBuf::from("/usr"),
    };
    let refused = cordon(&theirs, &["dev", "--port", "0"]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(4) && said.contains(&format!("{} belongs to ", theirs.display())), "{said}");
}

//! `cordon dev` through the binary: everything from nothing, found again the second time, shared with other commands.

use crate::support::run_dir;
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
async fn dev_prints_what_to_try_and_it_works() {
    let home = home("dev-text");
    std::fs::create_dir_all(&home).unwrap();
    let log = home.with_extension("log");
    let mut command = cordon(&home, &["dev", "--port", "0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let text: Vec<_> = lines.take_while(|line| !line.contains("open the explorer")).collect();
    assert!(!text.concat().contains('\u{1b}'), "colours without a terminal: {text:?}");
    let lines: Vec<_> = text.iter().map(|line| line.trim()).collect();
    let link = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let (graphql, explorer) = (link("GraphQL"), link("Explorer"));
    let http = reqwest::Client::new();
    let viewer = json!({ "query": "{ viewer { id } }" });

    let tokens: Vec<_> = lines.iter().filter(|line| line.starts_with("eyJ")).collect();
    assert_eq!(tokens.len(), 3, "{text:?}");
    for token in tokens {
        assert_eq!(http.post(graphql).bearer_auth(token).json(&viewer).send().await.unwrap().status(), 200);
    }
    let questions: Vec<_> = lines.iter().filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(questions.len(), 3, "{text:?}");
    for line in questions {
        let between = |from: &str, to: char| line.split(from).nth(1).unwrap().split(to).next().unwrap().to_owned();
        let headers = std::fs::read_to_string(home.parent().unwrap().join(between("-H @", ' '))).unwrap();
        let token = headers.lines().find_map(|header| header.strip_prefix("Authorization: Bearer ")).unwrap();
        let request = http.post(between("curl -s ", ' ')).bearer_auth(token);
        let request = request.header("content-type", "application/json").body(between("-d '", '\''));
        let response: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(response["data"].is_object() && response["errors"].is_null(), "{line}: {response}");
    }

    // The explorer gives tokens to a page that has the key of the link, and to no other.
    let (page, key) = explorer.split_once("#key=").unwrap();
    assert_eq!(http.get(page).send().await.unwrap().status(), 200);
    let tokens = async |key: &str| {
        let response = http.get(format!("{page}/tokens")).bearer_auth(key).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    let (status, organisations) = tokens(key).await;
    assert!(status == 200 && organisations[2]["slug"] == "summit", "{organisations}");
    let token = organisations[2]["tokens"]["nurse"].as_str().unwrap();
    assert_eq!(tokens("").await.0, 404);
    assert_eq!(tokens(&"0".repeat(key.len())).await.0, 404);

    // The pages of a front end on this machine may send requests; those of other hosts may not.
    let from = async |origin: &str| {
        let request = http.post(graphql).bearer_auth(token).header("origin", origin);
        let response = request.json(&viewer).send().await.unwrap();
        (response.status().as_u16(), response.headers().contains_key("access-control-allow-origin"))
    };
    assert_eq!(from("http://localhost:5173").await, (200, true));
    assert_eq!(from("http://127.0.0.1:3000").await, (200, true));
    assert_eq!(from("https://elsewhere.example").await, (403, false));

    // An address that is in use is reported before anything is created.
    let port = graphql.split("127.0.0.1:").nth(1).unwrap().split('/').next().unwrap();
    let elsewhere = run_dir().join("dev-port-in-use/home");
    std::fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
    let refused = cordon(&elsewhere, &["dev", "--port", port]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--port") && !elsewhere.exists());
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(!log.contains("INFO"), "the steps are for --verbose: {log}");
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

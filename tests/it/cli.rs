//! Commands through the built binary, as an operator types them: from nothing to a query, exit codes, one JSON document
//! on standard output.

use crate::support::fhir::{encounter, file, ndjson, note, patient};
use crate::support::{options, run_dir};
use cordon::cluster::Cluster;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What an operator has at hand: a directory with the files of `init`, and a superuser's URL.
pub struct Desk {
    pub directory: PathBuf,
    admin: String,
    pub cluster: Cluster,
}

/// A server started by `cordon serve`.
pub struct Served {
    pub child: Child,
    pub url: String,
}

impl Desk {
    pub fn new(name: &str) -> Self {
        let cluster = Cluster::start(&options(name)).unwrap();
        let directory = run_dir().join(format!("{name}-desk"));
        std::fs::create_dir(&directory).unwrap();
        Self { admin: cluster.superuser_url("postgres").expose_secret().into(), directory, cluster }
    }

    /// `cordon` with the variables of these files.
    pub fn cordon(&self, files: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        command.current_dir(&self.directory).args(arguments).env("ADMIN_URL", &self.admin).stdin(Stdio::null());
        command.env("CORDON__HTTP__BIND", "127.0.0.1:0").env("CORDON__TELEMETRY__BIND", "127.0.0.1:0");
        if arguments.first() == Some(&"import") {
            command.args(["--profile", "dev"]);
        }
        for file in files {
            for line in std::fs::read_to_string(self.directory.join(file)).unwrap().lines() {
                let (name, value) = line.split_once('=').unwrap();
                command.env(name, value.trim_matches('\''));
            }
        }
        command
    }

    /// The document that a command prints; exit code 0.
    pub fn json(&self, files: &[&str], arguments: &[&str]) -> Value {
        let (code, document) = self.code_and_json(files, arguments);
        assert_eq!(code, 0, "{arguments:?}: {document}");
        document
    }

    fn code_and_json(&self, files: &[&str], arguments: &[&str]) -> (i32, Value) {
        let output = self.cordon(files, arguments).arg("--json").output().unwrap();
        (output.status.code().unwrap(), document(&output))
    }

    /// The exit code of a command that fails, and what it says; standard output stays empty.
    pub fn fails(&self, files: &[&str], arguments: &[&str]) -> (i32, String) {
        failed(self.cordon(files, arguments).arg("--json").output().unwrap())
    }

    fn serve(&self) -> Served {
        self.serve_with(&[])
    }

    /// A server with further variables.
    pub fn serve_with(&self, variables: &[(&str, &str)]) -> Served {
        let issuer =
            json!({ "issuer": "urn:cordon:dev", "jwks_file": ".cordon/dev-jwks.json", "algorithms": ["ES256"] });
        let settings = json!({ "auth": { "issuers": [issuer] } });
        std::fs::create_dir_all(self.directory.join("settings")).unwrap();
        std::fs::write(self.directory.join("settings/dev.yaml"), settings.to_string()).unwrap();
        let mut command = self.cordon(&["server.env"], &["serve", "--config", "settings", "--profile", "dev"]);
        let mut child = command.envs(variables.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines
            .find_map(|line| Some(line[line.find("http://")?..].split(['"', ' ']).next().unwrap().to_owned()))
            .expect("an address");
        // Whoever logs must be read.
        std::thread::spawn(move || lines.for_each(drop));
        Served { child, url }
    }
}

impl Served {
    fn ask(&self, token: &str, query: &str) -> (u16, Value) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answer = reqwest::Client::new()
                .post(&self.url)
                .bearer_auth(token)
                .json(&json!({ "query": query }))
                .send()
                .await
                .unwrap();
            (answer.status().as_u16(), answer.json().await.unwrap())
        })
    }

    /// Sends a signal and waits for the end.
    pub fn ends(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < Duration::from_secs(15), "it ends");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The one JSON document on standard output; logs went elsewhere.
fn document(output: &Output) -> Value {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "one document:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(text).unwrap()
}

fn failed(output: Output) -> (i32, String) {
    assert_eq!(output.stdout, b"", "nothing on standard output");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn charts(directory: &Path) -> PathBuf {
    let chart = [patient("p"), encounter("e", "Patient/p"), note("n", "Patient/p", "stable, discharge today")];
    let path = directory.join("charts.ndjson");
    std::fs::rename(ndjson(&chart), &path).unwrap();
    path
}

pub const OPERATOR: &[&str] = &["server.env", "operator.env"];
pub const SERVER: &[&str] = &["server.env"];

#[test]
fn from_nothing_to_a_query() {
    let desk = Desk::new("cli");
    let made = desk.json(&[], &["init", "--admin-url-env", "ADMIN_URL"]);
    let before = std::fs::read(desk.directory.join("keys.json")).unwrap();
    assert_eq!(desk.json(&[], &["init", "--admin-url-env", "ADMIN_URL"]), made, "again, nothing changes");
    assert_eq!(std::fs::read(desk.directory.join("keys.json")).unwrap(), before);
    assert!(desk.json(&[], &["init", "--print-sql"])["sql"].as_str().unwrap().contains("cordon_guard"));

    let create = |slug: &'static str, model| {
        desk.json(OPERATOR, &["tenant", "create", slug, "--name", "A clinic", "--model", model])
    };
    let tenants = [create("riverside", "shared"), create("lakeside", "schema"), create("summit", "database")];
    assert_eq!(create("lakeside", "schema"), tenants[1], "again, it is the same tenant");
    assert_eq!(desk.json(OPERATOR, &["tenant", "list"]).as_array().unwrap().len(), 3);
    assert_eq!(desk.json(OPERATOR, &["tenant", "show", "summit"])["placement"]["model"], "database");
    assert_eq!(desk.fails(OPERATOR, &["tenant", "create", "lakeside", "--name", "Another", "--model", "schema"]).0, 4);
    let again = ["tenant", "create", "lakeside", "--name", "A clinic", "--model", "schema"];
    assert_eq!(desk.fails(OPERATOR, &[&again[..], &["--plan", "large"]].concat()).0, 4);
    assert_eq!(desk.json(OPERATOR, &[&again[..], &["--plan", "standard", "--server", "main"]].concat()), tenants[1]);
    assert_eq!(desk.fails(OPERATOR, &["tenant", "create", "Lake Side", "--name", "x"]).0, 2);
    assert_eq!(desk.json(OPERATOR, &["server", "list"])[0]["name"], "main");
    // For people: a table with a line for each.
    let table = |arguments: &[&str]| {
        let output = desk.cordon(OPERATOR, arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect::<Vec<Vec<_>>>()
    };
    let listed = table(&["tenant", "list"]);
    assert_eq!(listed[0], ["SLUG", "ID", "STATE", "MODEL", "PLAN", "NAME"]);
    assert!(listed.len() == 4 && listed.iter().any(|row| row[0] == "summit" && row[3] == "database"), "{listed:?}");
    assert_eq!(table(&["server", "list"])[1][..2], ["main", "-"]);
    let status = table(&["migrate", "status"]);
    assert_eq!(status[0], ["DATABASE", "SCHEMA", "TENANT", "APPLIED", "PENDING", "NEWEST", "APPLIED"]);
    assert!(status.iter().any(|row| row[2] == "lakeside" && row[4] == "0"), "{status:?}");

    let files = charts(&desk.directory);
    let files = files.to_str().unwrap();
    for tenant in &tenants {
        let slug = tenant["slug"].as_str().unwrap();
        let done = desk.json(SERVER, &["import", "fhir", "--tenant", slug, files]);
        assert_eq!((&done["notes"]["new"], &done["tenant"]), (&json!(1), &tenant["slug"]));
        assert_eq!(desk.json(SERVER, &["import", "fhir", "--tenant", slug, files])["notes"]["unchanged"], 1);
    }
    // Standard input, and what is refused on it.
    let mut piped =
        desk.cordon(SERVER, &["import", "fhir", "--tenant", "riverside", "-", "--rejects", "rejects.ndjson", "--json"]);
    let mut child = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input = format!("{}\n{}\n", note("m", "Patient/p", "from a pipe"), note("lost", "Patient/none", "from a pipe"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), document(&output)["notes"]["new"].clone()),
        (Some(3), json!(1)),
        "done, with rejects"
    );
    let rejects = std::fs::read_to_string(desk.directory.join("rejects.ndjson")).unwrap();
    assert!(rejects.contains("patient_not_found") && !rejects.contains("pipe"), "{rejects}");

    let token = |tenant: &Value| {
        let id = tenant["id"].as_str().unwrap();
        let made = desk.json(&[], &["token", "--tenant-id", id, "--role", "clinician", "--subject", "alice"]);
        made["token"].as_str().unwrap().to_owned()
    };
    let token_of_riverside = token(&tenants[0]);
    let served = desk.serve();
    let by_number =
        r#"{ patientByIdentifier(system: "urn:mrn", value: "mrn-p") { notes(first: 5) { edges { node { body } } } } }"#;
    for tenant in &tenants {
        let (status, body) = served.ask(&token(tenant), by_number);
        assert_eq!(status, 200, "{body}");
        assert!(body.to_string().contains("stable, discharge today"), "{body}");
    }
    // A tenant made, suspended and resumed while it serves.
    let late = create("hillside", "schema");
    assert_eq!(served.ask(&token(&late), "{ viewer { id } }").0, 200);
    assert_eq!(desk.json(OPERATOR, &["tenant", "suspend", "riverside"])["state"], "suspended");
    let (status, body) = served.ask(&token_of_riverside, by_number);
    assert!(status != 200 && body.to_string().contains("TENANT_SUSPENDED"), "{status} {body}");
    let (code, said) = desk.fails(SERVER, &["import", "fhir", "--tenant", "riverside", files]);
    assert!(code == 4 && said.contains("suspended"), "{said}");
    assert_eq!(desk.json(OPERATOR, &["tenant", "resume", "riverside"])["state"], "active");
    let began = Instant::now();
    while served.ask(&token_of_riverside, by_number).0 != 200 {
        assert!(began.elapsed() < Duration::from_secs(2), "a running server learns of it within a second");
    }
    assert_eq!(served.ends(Signal::SIGINT), Some(0));
    assert_eq!(desk.serve().ends(Signal::SIGTERM), Some(0));
    refusals(&desk, files);
}

/// What ends a command before it does anything, and by which code.
fn refusals(desk: &Desk, files: &str) {
    let code = |files: &[&str], arguments: &[&str]| desk.fails(files, arguments);
    assert_eq!(code(SERVER, &["no-such-command"]).0, 2);
    assert_eq!(code(SERVER, &["import", "fhir", "--tenant", "nobody", files]).0, 2);
    assert_eq!(code(SERVER, &["import", "fhir", "--tenant", "lakeside", "/no/such/file"]).0, 2);
    assert_eq!(code(SERVER, &["tenant", "list"]).0, 2, "a command on tenants needs the operator's login");
    assert_eq!(code(&[], &["serve"]).0, 2, "no settings");
    assert_eq!(code(&[], &["init", "--admin-url-env", "NOT_SET"]).0, 2);
    assert_eq!(code(OPERATOR, &["tenant", "show", "nobody"]).0, 2);
    let (status, said) = code(OPERATOR, &["migrate", "status", "--tenant", "nobody"]);
    assert!(status == 2 && said.contains("there is no tenant nobody"), "{said}");
    let (status, said) = code(OPERATOR, &["migrate", "status", "--tenant", "riverside"]);
    assert!(status == 2 && said.contains("riverside has no schema of its own"), "{said}");
    let (status, said) =
        code(SERVER, &["import", "fhir", "--tenant", "lakeside", files, "--rejects", "no/such/rejects"]);
    assert!(status == 2 && said.contains("no/such/rejects: "), "{said}");
    let (status, said) = code(&[], &["sample", "--patients", "1", "--out", "no/such/charts"]);
    assert!(status == 2 && said.contains("no/such/charts: "), "{said}");

    let (status, said) = code(OPERATOR, &["serve"]);
    assert!(status == 2 && said.contains("operator_url"), "{said}");
    let (status, said) = code(SERVER, &["serve", "--config", "settings", "--profile", "nowhere"]);
    assert_eq!(status, 2, "{said}");
    std::fs::copy(desk.directory.join("settings/dev.yaml"), desk.directory.join("settings/production.yaml")).unwrap();
    let (status, said) = code(SERVER, &["serve", "--config", "settings", "--profile", "production"]);
    assert!(status == 2 && said.contains("development issuer"), "{said}");
    let (status, said) = failed(desk.cordon(SERVER, &["serve"]).env("CORDON__HTTP__PROT", "1").output().unwrap());
    assert!(status == 2 && said.contains("prot"), "{said}");
    let settings = file("yaml", "limits: { depht: 3 }");
    std::fs::rename(settings, desk.directory.join("settings/typo.yaml")).unwrap();
    let (status, said) = code(SERVER, &["serve", "--config", "settings", "--profile", "typo"]);
    assert!(status == 2 && said.contains("depht"), "{said}");

    std::fs::write(desk.directory.join("flags.yaml"), "nothing: { enabled: true }").unwrap();
    let mut serve = desk.cordon(SERVER, &["serve"]);
    let (status, said) = failed(serve.env("CORDON__FLAGS__FILE", "flags.yaml").output().unwrap());
    assert!(status == 2 && said.contains("nothing is no flag"), "{said}");
    // A secret in a file: read, so that what is missing is the other half; and a file that is not there.
    let mut serve = desk.cordon(SERVER, &["serve"]);
    let (status, said) = failed(serve.env("CORDON__FLAGS__UNLEASH_TOKEN_FILE", "flags.yaml").output().unwrap());
    assert!(status == 2 && said.contains("unleash_url and unleash_token") && !said.contains("nothing"), "{said}");
    let mut serve = desk.cordon(SERVER, &["serve"]);
    let (status, said) = failed(serve.env("CORDON__CATALOG__URL_FILE", "no-such-file").output().unwrap());
    assert!(status == 2 && said.contains("CORDON__CATALOG__URL_FILE names no-such-file"), "{said}");

    // The keys away, PostgreSQL away.
    let (keys, elsewhere) = (desk.directory.join("keys.json"), desk.directory.join("keys.elsewhere"));
    std::fs::rename(&keys, &elsewhere).unwrap();
    assert_eq!(code(SERVER, &["import", "fhir", "--tenant", "lakeside", files]).0, 6);
    let mut without = desk.cordon(SERVER, &["serve", "--profile", "dev"]);
    without
        .env("CORDON__HTTP__BIND", "127.0.0.1:0")
        .env("CORDON__TELEMETRY__BIND", "127.0.0.1:0")
        .stderr(Stdio::piped());
    let mut without = without.spawn().unwrap();
    let lines = BufReader::new(without.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said: String = lines.take_while(|line| !line.contains("Serving ")).collect();
    without.kill().unwrap();
    without.wait().unwrap();
    assert!(said.contains("The keys are not available") && !said.contains("is away"), "{said}");
    std::fs::rename(&elsewhere, &keys).unwrap();
    let unreachable = "postgres://cordon_catalog_reader:x@/cordon_control?host=/nonexistent";
    let away = desk
        .cordon(SERVER, &["import", "fhir", "--tenant", "lakeside", files])
        .env("CORDON__CATALOG__URL", unreachable)
        .output()
        .unwrap();
    assert_eq!(failed(away).0, 6);
    let unreachable = "postgres://cordon_operator:x@/cordon_control?host=/nonexistent";
    let mut away = desk.cordon(OPERATOR, &["tenant", "list"]);
    assert_eq!(failed(away.env("CORDON__CATALOG__OPERATOR_URL", unreachable).output().unwrap()).0, 6);

    // A wall down: serve names it.
    desk.superuser("cordon_data", "alter table shared.patients no force row level security");
    let (status, said) = code(SERVER, &["serve"]);
    assert!(status == 5 && said.contains("patients"), "{said}");
    desk.superuser("cordon_data", "alter table shared.patients force row level security");
}

impl Desk {
    fn superuser(&self, database: &str, sql: &str) {
        let url = self.cluster.superuser_url(database);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config: tokio_postgres::Config = url.expose_secret().parse().unwrap();
            crate::support::site::connect_session(&config).await.batch_execute(sql).await.unwrap();
        });
    }
}

#[test]
fn migrations_go_down_and_up_and_a_second_server_takes_tenants() {
    let desk = Desk::new("cli-two");
    desk.json(&[], &["init", "--admin-url-env", "ADMIN_URL"]);
    desk.json(OPERATOR, &["tenant", "create", "lakeside", "--name", "A clinic", "--model", "schema"]);
    let mine =
        |status: &Value| status.as_array().unwrap().iter().find(|row| row["tenant"] == "lakeside").unwrap().clone();
    let up = mine(&desk.json(OPERATOR, &["migrate", "status"]));
    assert!(up["applied"].as_array().unwrap().len() >= 2 && up["pending"] == json!([]), "{up}");
    assert_eq!(desk.fails(OPERATOR, &["migrate", "down", "--tenant", "lakeside"]).0, 4, "not without --yes");
    let count = up["applied"].as_array().unwrap().len();
    let mut undone = 0;
    while undone < count {
        undone +=
            desk.json(OPERATOR, &["migrate", "down", "--tenant", "lakeside", "--yes"])["ran"].as_array().unwrap().len();
        let now = mine(&desk.json(OPERATOR, &["migrate", "status", "--tenant", "lakeside"]));
        assert_eq!(
            (now["applied"].as_array().unwrap().len(), now["pending"].as_array().unwrap().len()),
            (count - undone, undone)
        );
    }
    assert_eq!(desk.json(OPERATOR, &["migrate", "up"])["ran"].as_array().unwrap().len(), count);
    assert_eq!(desk.json(OPERATOR, &["migrate", "up"])["ran"], json!([]), "nothing to do");
    assert_eq!(mine(&desk.json(OPERATOR, &["migrate", "status"])), up);
    let files = charts(&desk.directory);
    assert_eq!(
        desk.json(SERVER, &["import", "fhir", "--tenant", "lakeside", files.to_str().unwrap()])["notes"]["new"],
        1
    );

    let second = Cluster::start(&options("cli-second")).unwrap();
    let url = second.superuser_url("postgres");
    let add = || {
        desk.cordon(OPERATOR, &["server", "add", "east", "--admin-url-env", "EAST_URL", "--json"])
            .env("EAST_URL", url.expose_secret())
            .output()
            .unwrap()
    };
    let added = document(&add());
    assert_eq!(document(&add()), added, "again, it is the same server");
    assert_eq!(desk.json(OPERATOR, &["server", "locate", "east", "eu-east"])["id"], added["id"]);
    let servers = desk.json(OPERATOR, &["server", "list"]);
    assert_eq!(
        (&servers[0]["region"], &servers[1]["region"], servers.as_array().unwrap().len()),
        (&Value::Null, &json!("eu-east"), 2)
    );
    assert_eq!(desk.fails(OPERATOR, &["server", "locate", "west", "eu-west"]).0, 2);
    for (slug, model) in [("dune", "schema"), ("delta", "database"), ("dale", "shared")] {
        let made = desk
            .json(OPERATOR, &["tenant", "create", slug, "--name", "A clinic", "--model", model, "--server", "east"]);
        assert_eq!(made["placement"]["server"], added["id"]);
        assert_eq!(
            desk.json(SERVER, &["import", "fhir", "--tenant", slug, files.to_str().unwrap()])["notes"]["new"],
            1
        );
    }
    let (code, said) = desk.fails(
        OPERATOR,
        &["tenant", "create", "lakeside", "--name", "A clinic", "--model", "schema", "--server", "east"],
    );
    assert!(code == 4 && said.contains("another name, model, server or plan"), "{said}");
    assert_eq!(desk.fails(OPERATOR, &["tenant", "create", "far", "--name", "x", "--server", "west"]).0, 2);
    interrupted(&desk);
}

/// SIGINT ends an import at once, by 130, also one that waits for its input.
fn interrupted(desk: &Desk) {
    let mut waiting =
        desk.cordon(SERVER, &["import", "fhir", "--tenant", "lakeside", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    // Held open: to wait for a child closes its input.
    let _input = waiting.stdin.take();
    std::thread::sleep(Duration::from_millis(700));
    kill(Pid::from_raw(waiting.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let began = Instant::now();
    assert_eq!(waiting.wait().unwrap().code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(3));
}

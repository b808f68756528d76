//! L-1 through a real PgBouncer. In session mode Cordon works as it does without one. In transaction mode it does not: a binding is made
//! for one backend, and PgBouncer before 1.21 loses prepared statements; what must hold there is that every answer is right or an error,
//! that no tenant ever sees another's row, and that nothing is half written.

use crate::site::{Site, admitted, names, pid, plant, seen, statement};
use cordon::app::App;
use cordon::cluster::Cluster;
use cordon::error::Error;
use cordon::isolation::BootCheck;
use cordon::tenant::{TenancyModel, Tenant};
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l01_pgbouncer_in_session_mode() {
    let (cluster, site) = Site::alone("bouncer-session").await;
    let clinics = clinics(&site, &[TenancyModel::Shared, TenancyModel::Schema, TenancyModel::Database]).await;
    let mut bouncer = Bouncer::start(&cluster, &site, "session", 1).await;
    let mut settings = site.server_settings();
    settings.database.backends = 1;
    let app = App::new(settings, BootCheck::On).unwrap();

    let (mut backends, mut outcomes, mut turned_away) = (BTreeSet::new(), [0_u32; 5], 0);
    for turn in 0..1000_usize {
        // The database tenant has a connection to itself, so it comes seldom.
        let clinic = if turn % 100 == 99 { &clinics[2] } else { &clinics[turn % 2] };
        let misfortune = turn * 7 % 40;
        match misfortune {
            0 => {
                let guard = admitted(&app, clinic.id()).await.unwrap();
                assert_eq!(
                    statement(&guard.read().await.unwrap(), "select nonsense from patients").await,
                    Err(Error::Internal)
                );
                guard.abandon().await;
            }
            1 => assert!(matches!(
                plant(&app, clinic.id(), clinic.patient, "an impostor").await,
                Err(Error::Conflict { .. })
            )),
            2 => {
                // Given up while the answer is on its way.
                let guard = admitted(&app, clinic.id()).await.unwrap();
                let _ = seen(&guard.read().await.unwrap()).now_or_never();
            }
            3 => {
                // Given up while PostgreSQL works on it.
                let guard = admitted(&app, clinic.id()).await.unwrap();
                let tx = guard.read().await.unwrap();
                let asleep =
                    tokio::time::timeout(Duration::from_millis(20), statement(&tx, "select pg_sleep(20)")).await;
                assert!(asleep.is_err());
            }
            _ => {}
        }
        outcomes[misfortune.min(4)] += 1;
        let cancelled = [0, 2, 3].contains(&misfortune);
        if cancelled {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut seen = look(&app, clinic).await;
        while cancelled && seen == Err(Error::Unavailable) && turned_away < 200 {
            // PgBouncer 1.18 takes whoever comes next for the one who just asked to cancel, and closes that connection, or ends itself.
            turned_away += 1;
            bouncer.revive();
            tokio::time::sleep(Duration::from_millis(20)).await;
            seen = look(&app, clinic).await;
        }
        let (seen, backend) = seen.unwrap_or_else(|error| panic!("turn {turn}, misfortune {misfortune}: {error}"));
        assert_eq!(seen, std::slice::from_ref(&clinic.mark), "turn {turn}");
        backends.insert(backend);
    }
    println!(
        "session mode: 1,000 turns over {} backends, one at a time; bad statements, conflicts, dropped, cancelled, none: {outcomes:?}; \
         after a cancellation {turned_away} were turned away, and PgBouncer started {} times",
        backends.len(),
        bouncer.starts
    );
    assert!(outcomes.iter().all(|count| *count >= 20), "{outcomes:?}");
    // Most turns end well, and whoever comes next gets the same connection.
    assert!(backends.len() < 200, "{}", backends.len());
    let superuser = site.superuser("postgres").await;
    let open =
        "select count(*) from pg_stat_activity where usename = 'cordon_app' and state like 'idle in transaction%'";
    assert_eq!(superuser.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l01_pgbouncer_in_transaction_mode() {
    let (cluster, site) = Site::alone("bouncer-transaction").await;
    let clinics = clinics(&site, &[TenancyModel::Shared, TenancyModel::Schema]).await;
    let mut bouncer = Bouncer::start(&cluster, &site, "transaction", 2).await;
    // Two processes: their statements have the same names.
    let replicas = [Replica::start(&site), Replica::start(&site)];
    let http = reqwest::Client::new();

    let (mut codes, mut sent) = (BTreeMap::<String, u32>::new(), Vec::new());
    for turn in 0..150_usize {
        bouncer.revive();
        let together = (0..8).map(|place| {
            let clinic = &clinics[place % 2];
            let number = (place / 2 % 2 == 1).then(|| format!("{}-{turn}-{place}", clinic.mark));
            let question = match &number {
                None => json!({ "query": "{ patients(first: 200) { nodes { identifiers { value } name { text } } } }" }),
                Some(number) => json!({ "query": REGISTER, "variables": { "input": { "sex": "OTHER", "name": { "text": clinic.mark },
                    "identifiers": [{ "system": "urn:mrn", "value": number }] } } }),
            };
            let asked =
                http.post(&replicas[place / 4].url).bearer_auth(site.token(&[clinic.id()], "clinician", "ann")).json(&question).send();
            async move { (clinic, number, asked.await.unwrap().json::<Value>().await.unwrap()) }
        });
        for (clinic, number, answer) in futures_util::future::join_all(together).await {
            let other = clinics.iter().find(|other| other.mark != clinic.mark).unwrap();
            assert!(!answer.to_string().contains(&other.mark), "turn {turn}: {answer}");
            let code = answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("right").to_owned();
            if code == "right" {
                let patients = match number.is_some() {
                    true => vec![answer["data"]["registerPatient"]["patient"].clone()],
                    false => answer["data"]["patients"]["nodes"].as_array().unwrap().clone(),
                };
                assert!(
                    !patients.is_empty()
                        && patients.iter().all(|patient| patient["name"]["text"] == clinic.mark.as_str()),
                    "{answer}"
                );
                assert!(
                    number.as_ref().is_none_or(|number| patients[0]["identifiers"][0]["value"] == number.as_str()),
                    "{answer}"
                );
            }
            *codes.entry(code.clone()).or_default() += 1;
            sent.extend(number.map(|_| (clinic.mark.clone(), code, answer)));
        }
    }
    println!("transaction mode: {codes:?}");
    assert!(codes["right"] > 0, "{codes:?}");
    assert!(codes.keys().all(|code| ["right", "UNAVAILABLE"].contains(&code.as_str())), "{codes:?}");
    for clinic in &clinics {
        written_whole_or_not_at_all(&site, clinic, &sent).await;
    }
}

/// What the answers to `registerPatient` said is what there is: each patient with its number and on record, and nothing else.
async fn written_whole_or_not_at_all(site: &Site, clinic: &Clinic, sent: &[(String, String, Value)]) {
    let mine = || sent.iter().filter(|(mark, ..)| *mark == clinic.mark);
    let right = mine().filter(|(_, code, _)| code == "right").count();
    // An answer may have been lost after the commit; then it says what stands.
    let stands =
        mine().filter(|(_, code, answer)| code != "right" && answer.to_string().contains("patient.registered")).count();
    let inside = site.superuser("cordon_data").await;
    let counts = "select count(*), count(*) filter (where exists (select from patient_identifiers i where i.patient_id = p.id)),
        count(*) filter (where exists (select from audit_log a where a.tenant_id = p.tenant_id and p.id = any (a.resource_ids) and a.purpose = 'write'))
        from patients p where tenant_id = $1::text::uuid and id <> $2::text::uuid";
    inside
        .batch_execute(&format!("set search_path = {}", clinic.tenant.placement.as_ref().unwrap().schema))
        .await
        .unwrap();
    let row = inside.query_one(counts, &[&clinic.id().to_string(), &clinic.patient.to_string()]).await.unwrap();
    let (patients, numbered, recorded): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    println!(
        "{}: {} asked for, {right} answered, {stands} said to stand; {patients} there",
        clinic.mark,
        mine().count()
    );
    assert_eq!([patients, numbered, recorded].map(usize::try_from), [Ok(right + stands); 3]);
}

/// Names of a clinic's patients, and the backend that told them.
async fn look(app: &App, clinic: &Clinic) -> Result<(Vec<String>, i32), Error> {
    let seen = names(app, clinic.id()).await?;
    let guard = admitted(app, clinic.id()).await?;
    let backend = pid(&*guard.read().await?).await?;
    guard.finish().await.map(|()| (seen, backend))
}

const REGISTER: &str = "mutation ($input: RegisterPatientInput!) { registerPatient(input: $input) { patient { name { text } identifiers { value } } } }";

/// A tenant with one patient, whose name occurs nowhere else.
struct Clinic {
    tenant: Tenant,
    patient: Uuid,
    mark: String,
}

impl Clinic {
    fn id(&self) -> cordon::ids::TenantId {
        self.tenant.id
    }
}

async fn clinics(site: &Site, models: &[TenancyModel]) -> Vec<Clinic> {
    let app = site.app(BootCheck::On);
    let mut clinics = Vec::new();
    for model in models {
        let tenant = site.tenant(*model).await;
        let clinic = Clinic { patient: Uuid::now_v7(), mark: format!("marked {}", tenant.slug), tenant };
        plant(&app, clinic.id(), clinic.patient, &clinic.mark).await.unwrap();
        clinics.push(clinic);
    }
    clinics
}

/// A PgBouncer in front of a cluster, to which the catalog leads. Reached through a socket, run by whoever PostgreSQL runs as.
struct Bouncer {
    command: Command,
    child: Child,
    starts: u32,
}

impl Bouncer {
    async fn start(cluster: &Cluster, site: &Site, mode: &str, backends: u32) -> Self {
        let owner = std::fs::metadata(cluster.socket_dir()).unwrap();
        let directory = crate::run_dir().join(format!("pooler-{mode}"));
        std::fs::create_dir(&directory).unwrap();
        let secrets = "select string_agg(format('\"%s\" \"%s\"', rolname, rolpassword), e'\\n') from pg_authid where rolpassword is not null";
        let logins: String = site.superuser("postgres").await.query_one(secrets, &[]).await.unwrap().get(0);
        std::fs::write(directory.join("logins"), logins).unwrap();
        let settings = format!(
            "[databases]\n* = host={}\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {here}\nauth_type = scram-sha-256\n\
             auth_file = {here}/logins\npool_mode = {mode}\ndefault_pool_size = {backends}\nmax_client_conn = 100\nlogfile = {here}/log\n\
             {}",
            cluster.socket_dir().display(),
            // What is to be shown is what those before 1.21 do.
            if knows_prepared_statements() { "max_prepared_statements = 0\n" } else { "" },
            here = directory.display(),
        );
        std::fs::write(directory.join("ini"), settings).unwrap();
        for path in ["", "logins", "ini"] {
            chown(directory.join(path), Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let mut command = Command::new(PROGRAM);
        command
            .arg("--quiet")
            .arg(directory.join("ini"))
            .current_dir("/")
            .uid(owner.uid())
            .gid(owner.gid())
            .env_clear();
        let child = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
        let mut bouncer = Self { command, child, starts: 1 };
        let began = Instant::now();
        while !directory.join(".s.PGSQL.6432").exists() {
            let ended = bouncer.child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_secs(10),
                "{:?}",
                std::fs::read_to_string(directory.join("log"))
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let address = format!("postgres:///?host={}&port=6432", directory.display());
        site.superuser("cordon_control")
            .await
            .execute("update cordon_catalog.servers set address = $1", &[&address])
            .await
            .unwrap();
        bouncer
    }

    /// Starts it again if it has ended, as its service would.
    fn revive(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            self.child = self.command.spawn().unwrap();
            self.starts += 1;
        }
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PROGRAM: &str = "/usr/sbin/pgbouncer";

fn knows_prepared_statements() -> bool {
    let said = Command::new(PROGRAM).arg("--version").output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let version = said.lines().next().unwrap().trim_start_matches("PgBouncer ");
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
    parts >= vec![1, 21]
}

/// A `cordon serve` of its own.
struct Replica {
    child: Child,
    url: String,
}

impl Replica {
    fn start(site: &Site) -> Self {
        let mut settings: Value =
            serde_json::from_slice(&std::fs::read(site.directory.join("test.yaml")).unwrap()).unwrap();
        settings["catalog"].as_object_mut().unwrap().remove("operator_url");
        // The one profile that takes tokens of the development issuer.
        std::fs::write(site.directory.join("dev.yaml"), settings.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        command.args(["serve", "--config"]).arg(&site.directory).args(["--profile", "dev"]).stdin(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines
            .find_map(|line| Some(line[line.find("http://")?..].split(['"', ' ']).next().unwrap().to_owned()))
            .expect("an address");
        // Whoever logs must be read.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

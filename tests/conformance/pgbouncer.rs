//! L-1 through a real PgBouncer. In session mode Cordon works as without PgBouncer. Transaction mode is not supported,
//! because a binding is made for one backend, and PgBouncer before 1.21 does not track prepared statements. The test
//! shows that even then every response is right or an error, that no tenant sees a row of another, and that no write is
//! partial.

use crate::support::site::{
    Site, admitted_guard, backend_pid, execute_sql, insert_patient, patient_names, patient_names_in,
};
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
async fn l01_pgbouncer_in_session_mode_isolates_tenants() {
    let (cluster, site) = Site::with_own_cluster("bouncer-session").await;
    let tenants = tenants(&site, &[TenancyModel::Shared, TenancyModel::Schema, TenancyModel::Database]).await;
    let mut bouncer = PgBouncer::start(&cluster, &site, "session", 1).await;
    let mut settings = site.server_settings();
    settings.database.backends = 1;
    let app = App::new(settings, BootCheck::On).unwrap();

    let (mut backends, mut outcomes, mut rejected) = (BTreeSet::new(), [0_u32; 5], 0);
    for turn in 0..1000_usize {
        // The database tenant uses a connection of its own, so it is used seldom.
        let marked = if turn % 100 == 99 { &tenants[2] } else { &tenants[turn % 2] };
        let fault = turn * 7 % 40;
        match fault {
            0 => {
                let guard = admitted_guard(&app, marked.id()).await.unwrap();
                assert_eq!(
                    execute_sql(&guard.read().await.unwrap(), "select nonsense from patients").await,
                    Err(Error::Internal)
                );
                guard.rollback().await;
            }
            1 => assert!(matches!(
                insert_patient(&app, marked.id(), marked.patient, "an impostor").await,
                Err(Error::Conflict { .. })
            )),
            2 => {
                // Cancelled while the response is on its way.
                let guard = admitted_guard(&app, marked.id()).await.unwrap();
                let _ = patient_names_in(&guard.read().await.unwrap()).now_or_never();
            }
            3 => {
                // Cancelled while PostgreSQL executes the statement.
                let guard = admitted_guard(&app, marked.id()).await.unwrap();
                let tx = guard.read().await.unwrap();
                let timed_out =
                    tokio::time::timeout(Duration::from_millis(20), execute_sql(&tx, "select pg_sleep(20)")).await;
                assert!(timed_out.is_err());
            }
            _ => {}
        }
        outcomes[fault.min(4)] += 1;
        let cancelled = [0, 2, 3].contains(&fault);
        if cancelled {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut result = read_names_and_backend(&app, marked).await;
        while cancelled && result == Err(Error::Unavailable) && rejected < 200 {
            // PgBouncer 1.18 sometimes closes the connection that follows a cancel request, or terminates.
            rejected += 1;
            bouncer.restart_if_ended();
            tokio::time::sleep(Duration::from_millis(20)).await;
            result = read_names_and_backend(&app, marked).await;
        }
        let (names, backend) = result.unwrap_or_else(|error| panic!("turn {turn}, fault {fault}: {error}"));
        assert_eq!(names, std::slice::from_ref(&marked.mark), "turn {turn}");
        backends.insert(backend);
    }
    println!(
        "session mode: 1,000 requests over {} backends, one at a time; wrong statements, conflicts, dropped, \
         cancelled, without fault: {outcomes:?}; \
         {rejected} were rejected after a cancellation, and PgBouncer was started {} times",
        backends.len(),
        bouncer.starts
    );
    assert!(outcomes.iter().all(|count| *count >= 20), "{outcomes:?}");
    // Most requests end cleanly, so the next request uses the same backend.
    assert!(backends.len() < 200, "{}", backends.len());
    let superuser = site.superuser("postgres").await;
    let open =
        "select count(*) from pg_stat_activity where usename = 'cordon_app' and state like 'idle in transaction%'";
    assert_eq!(superuser.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l01_pgbouncer_in_transaction_mode_isolates_tenants() {
    let (cluster, site) = Site::with_own_cluster("bouncer-transaction").await;
    let tenants = tenants(&site, &[TenancyModel::Shared, TenancyModel::Schema]).await;
    let mut bouncer = PgBouncer::start(&cluster, &site, "transaction", 2).await;
    // Two server processes, whose prepared statements have the same names.
    let replicas = [Replica::start(&site), Replica::start(&site)];
    let http = reqwest::Client::new();

    let (mut codes, mut sent) = (BTreeMap::<String, u32>::new(), Vec::new());
    for turn in 0..150_usize {
        bouncer.restart_if_ended();
        let requests = (0..8).map(|place| {
            let marked = &tenants[place % 2];
            let number = (place / 2 % 2 == 1).then(|| format!("{}-{turn}-{place}", marked.mark));
            let body = match &number {
                None => json!({ "query": "{ patients(first: 200) { nodes { identifiers { value } name { text } } } \
                    }" }),
                Some(number) => json!({ "query": REGISTER, "variables": { "input": { "sex": "OTHER",
                    "name": { "text": marked.mark },
                    "identifiers": [{ "system": "urn:mrn", "value": number }] } } }),
            };
            let request = http
                .post(&replicas[place / 4].url)
                .bearer_auth(site.token(&[marked.id()], "clinician", "ann"))
                .json(&body)
                .send();
            async move { (marked, number, request.await.unwrap().json::<Value>().await.unwrap()) }
        });
        for (marked, number, answer) in futures_util::future::join_all(requests).await {
            let other = tenants.iter().find(|other| other.mark != marked.mark).unwrap();
            assert!(!answer.to_string().contains(&other.mark), "turn {turn}: {answer}");
            let code = answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("success").to_owned();
            if code == "success" {
                let patients = match number.is_some() {
                    true => vec![answer["data"]["registerPatient"]["patient"].clone()],
                    false => answer["data"]["patients"]["nodes"].as_array().unwrap().clone(),
                };
                assert!(
                    !patients.is_empty()
                        && patients.iter().all(|patient| patient["name"]["text"] == marked.mark.as_str()),
                    "{answer}"
                );
                assert!(
                    number.as_ref().is_none_or(|number| patients[0]["identifiers"][0]["value"] == number.as_str()),
                    "{answer}"
                );
            }
            *codes.entry(code.clone()).or_default() += 1;
            sent.extend(number.map(|_| (marked.mark.clone(), code, answer)));
        }
    }
    println!("transaction mode: {codes:?}");
    assert!(codes["success"] > 0, "{codes:?}");
    assert!(codes.keys().all(|code| ["success", "UNAVAILABLE"].contains(&code.as_str())), "{codes:?}");
    for marked in &tenants {
        assert_writes_are_complete(&site, marked, &sent).await;
    }
}

/// Checks that the stored patients are those that the responses to `registerPatient` reported, each with its identifier
/// and audit row.
async fn assert_writes_are_complete(site: &Site, marked: &MarkedTenant, sent: &[(String, String, Value)]) {
    let of_tenant = || sent.iter().filter(|(mark, ..)| *mark == marked.mark);
    let successful = of_tenant().filter(|(_, code, _)| code == "success").count();
    // A response may have been lost after the commit; its error then names the committed mutation.
    let committed = of_tenant()
        .filter(|(_, code, answer)| code != "success" && answer.to_string().contains("patient.registered"))
        .count();
    let superuser = site.superuser("cordon_data").await;
    let counts =
        "select count(*), count(*) filter (where exists (select from patient_identifiers i where i.patient_id = p.id)),
        count(*) filter (where exists (select from audit_log a where a.tenant_id = p.tenant_id and p.id = any \
        (a.resource_ids) and a.purpose = 'write'))
        from patients p where tenant_id = $1::text::uuid and id <> $2::text::uuid";
    superuser
        .batch_execute(&format!("set search_path = {}", marked.tenant.placement.as_ref().unwrap().schema))
        .await
        .unwrap();
    let row = superuser.query_one(counts, &[&marked.id().to_string(), &marked.patient.to_string()]).await.unwrap();
    let (patients, identified, audited): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    println!(
        "{}: {} requested, {successful} successful, {committed} reported as committed; {patients} stored",
        marked.mark,
        of_tenant().count()
    );
    assert_eq!([patients, identified, audited].map(usize::try_from), [Ok(successful + committed); 3]);
}

/// Reads the names of a tenant's patients, and the process id of the backend.
async fn read_names_and_backend(app: &App, marked: &MarkedTenant) -> Result<(Vec<String>, i32), Error> {
    let names = patient_names(app, marked.id()).await?;
    let guard = admitted_guard(app, marked.id()).await?;
    let backend = backend_pid(&*guard.read().await?).await?;
    guard.finish().await.map(|()| (names, backend))
}

const REGISTER: &str = "mutation ($input: RegisterPatientInput!) { registerPatient(input: $input) { patient { name { \
    text } identifiers { value } } } }";

/// A tenant with one patient, whose name is unique.
struct MarkedTenant {
    tenant: Tenant,
    patient: Uuid,
    mark: String,
}

impl MarkedTenant {
    fn id(&self) -> cordon::ids::TenantId {
        self.tenant.id
    }
}

async fn tenants(site: &Site, models: &[TenancyModel]) -> Vec<MarkedTenant> {
    let app = site.app(BootCheck::On);
    let mut tenants = Vec::new();
    for model in models {
        let tenant = site.tenant(*model).await;
        let marked = MarkedTenant { patient: Uuid::now_v7(), mark: format!("marked {}", tenant.slug), tenant };
        insert_patient(&app, marked.id(), marked.patient, &marked.mark).await.unwrap();
        tenants.push(marked);
    }
    tenants
}

/// A PgBouncer in front of a cluster. The address in the catalog is its Unix socket. It runs as the same user as
/// PostgreSQL.
struct PgBouncer {
    command: Command,
    child: Child,
    starts: u32,
}

impl PgBouncer {
    async fn start(cluster: &Cluster, site: &Site, mode: &str, backends: u32) -> Self {
        let owner = std::fs::metadata(cluster.socket_dir()).unwrap();
        let directory = crate::support::run_dir().join(format!("pooler-{mode}"));
        std::fs::create_dir(&directory).unwrap();
        let secrets = "select string_agg(format('\"%s\" \"%s\"', rolname, rolpassword), e'\\n') from pg_authid where \
            rolpassword is not null";
        let logins: String = site.superuser("postgres").await.query_one(secrets, &[]).await.unwrap().get(0);
        std::fs::write(directory.join("logins"), logins).unwrap();
        let settings = format!(
            "[databases]\n* = host={}\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = \
             {here}\nauth_type = scram-sha-256\n\
             auth_file = {here}/logins\npool_mode = {mode}\ndefault_pool_size = {backends}\nmax_client_conn = \
             100\nlogfile = {here}/log\n\
             {}",
            cluster.socket_dir().display(),
            // The test shows the behaviour of versions before 1.21.
            if tracks_prepared_statements() { "max_prepared_statements = 0\n" } else { "" },
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
        let started = Instant::now();
        while !directory.join(".s.PGSQL.6432").exists() {
            let ended = bouncer.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < Duration::from_secs(10),
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

    /// Starts PgBouncer again if it has ended, as a service manager does.
    fn restart_if_ended(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            self.child = self.command.spawn().unwrap();
            self.starts += 1;
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PROGRAM: &str = "/usr/sbin/pgbouncer";

fn tracks_prepared_statements() -> bool {
    let output = Command::new(PROGRAM).arg("--version").output().unwrap().stdout;
    let output = String::from_utf8(output).unwrap();
    let version = output.lines().next().unwrap().trim_start_matches("PgBouncer ");
    let parts: Vec<u32> = version.split('.').map(|part| part.parse().unwrap()).collect();
    parts >= vec![1, 21]
}

/// A running `cordon serve`.
struct Replica {
    child: Child,
    url: String,
}

impl Replica {
    fn start(site: &Site) -> Self {
        let mut settings: Value =
            serde_json::from_slice(&std::fs::read(site.directory.join("test.yaml")).unwrap()).unwrap();
        settings["catalog"].as_object_mut().unwrap().remove("operator_url");
        // Only the profile `dev` accepts tokens of the development issuer.
        std::fs::write(site.directory.join("dev.yaml"), settings.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        command.args(["serve", "--config"]).arg(&site.directory).args(["--profile", "dev"]).stdin(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines
            .find_map(|line| Some(line[line.find("http://")?..].split(['"', ' ']).next().unwrap().to_owned()))
            .expect("an address");
        // The log is read to its end, so that the process never blocks on a full pipe.
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

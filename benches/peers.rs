//! Comparison with other GraphQL servers: the same requests for the same charts by the same client, alternately.
//! Latency, throughput and the processor time of server and PostgreSQL are measured. `CORDON_BENCH_PEERS` names a
//! directory with the other servers, prepared by its `setup.sh`; without it the bench does nothing. The other servers
//! read tenant and user from a header: they have no tokens, roles, sealing or signed bindings. `CORDON_BENCH_PATIENTS`,
//! `CORDON_BENCH_SECONDS` (per measurement), `CORDON_BENCH_ROUNDS` and `CORDON_BENCH_CONNECTIONS` set the size; the
//! full run is 1000, 4, 5, 8.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "a bench prints its table, and JSON has no other index"
)]

#[expect(dead_code, reason = "not all of the support for benches is used here")]
mod support;

use cordon::tenant::TenancyModel;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::load::{self, Request};
use support::measurements::Measurements;
use support::{BenchResult, BenchSite, ServerProcess, median, process_stats, size_from_env};
use tokio_postgres::{Client, NoTls};

const NAMES: [&str; 5] = ["apollo-1", "yoga-1", "yogajson-1", "postgraphile-1", "apollo-2"];
const USER: &str = "01840000-0000-7000-8000-100000000007";
/// The identifier system of the record numbers.
const SYSTEM: &str = "urn:peers:record";
/// The number of different requests of each kind, sent in turn.
const SAMPLES: usize = 64;
/// The first query of the peers, in Cordon's schema.
const CHART: &str =
    "query ($id: ID!) { patient(id: $id) { id identifiers { value } name { family given } birthDate encounters(first: \
     10) { edges { node {
    id class status startedAt notes(first: 20) { edges { node { id type { code } status author { id } authoredAt body \
    } } } } } } } }";
const NOTE: &str = "query ($id: ID!) { note(id: $id) { id type { code } status author { id } authoredAt body patient { \
    id } encounter { id } } }";
const DRAFT: &str = "mutation ($i: DraftNoteInput!) { draftNote(input: $i) { note { id status authoredAt } } }";
/// Queries that return the charts of the peers' largest tenant as FHIR: patients, practitioners, encounters, notes.
const CHARTS: [&str; 4] = [
    "select json_build_object('resourceType', 'Patient', 'id', id, 'birthDate', birth_date,
       'identifier', json_build_array(json_build_object('system', $2::text, 'value', mrn,
         'type', json_build_object('coding', json_build_array(json_build_object('system', \
         'http://terminology.hl7.org/CodeSystem/v2-0203', 'code', 'MR'))))),
       'name', json_build_array(json_build_object('family', family_name, 'given', json_build_array(given_name))))::text
     from app.patients where id = any($1::text[]::uuid[]) and $2 <> ''",
    "select distinct json_build_object('resourceType', 'Practitioner', 'id', author_id, 'name', \
     json_build_array(json_build_object('text', author_id)))::text
     from app.clinical_notes where patient_id = any($1::text[]::uuid[]) and $2 <> ''",
    "select json_build_object('resourceType', 'Encounter', 'id', id, 'status', status,
       'class', json_build_object('system', 'http://terminology.hl7.org/CodeSystem/v3-ActCode', 'code', 'AMB'),
       'subject', json_build_object('reference', 'Patient/' || patient_id), 'period', json_build_object('start', \
       started_at))::text
     from app.encounters where patient_id = any($1::text[]::uuid[]) and $2 <> ''",
    "select json_build_object('resourceType', 'DocumentReference', 'id', id, 'status', 'current', 'docStatus', \
     'final', 'date', created_at,
       'type', json_build_object('coding', json_build_array(json_build_object('system', 'http://loinc.org', 'code', \
       '11506-3', 'display', 'Progress note'))),
       'subject', json_build_object('reference', 'Patient/' || patient_id),
       'author', json_build_array(json_build_object('reference', 'Practitioner/' || author_id)),
       'context', json_build_object('encounter', json_build_array(json_build_object('reference', 'Encounter/' || \
       encounter_id))),
       'content', json_build_array(json_build_object('attachment', json_build_object('contentType', 'text/plain; \
       charset=utf-8',
         'data', translate(encode(convert_to(body, 'utf8'), 'base64'), E'\\n', '')))))::text
     from app.clinical_notes where patient_id = any($1::text[]::uuid[]) and $2 <> ''",
];

/// A server under comparison, with the process ids of the server and of its PostgreSQL, and its requests of each kind.
struct Contender {
    name: String,
    address: String,
    processes: [u32; 2],
    kinds: Vec<(&'static str, Arc<Vec<Request>>)>,
}

fn main() -> BenchResult<()> {
    let Some(directory) = std::env::var_os("CORDON_BENCH_PEERS").map(PathBuf::from) else {
        println!("CORDON_BENCH_PEERS names no directory of peers: there is nothing to compare");
        return Ok(());
    };
    tokio::runtime::Runtime::new()?.block_on(async {
        let site = BenchSite::create("peers", &[("shared_buffers", "1GB")]).await?;
        let outcome = measure(&site, &directory).await;
        site.remove().and(outcome)
    })
}

async fn measure(site: &BenchSite, directory: &Path) -> BenchResult<()> {
    let (seconds, rounds) = (size_from_env("CORDON_BENCH_SECONDS", 1)?, size_from_env("CORDON_BENCH_ROUNDS", 1)?);
    let (time, connections) = (Duration::from_secs(seconds.try_into()?), size_from_env("CORDON_BENCH_CONNECTIONS", 8)?);
    let peers = Peers::find(directory, size_from_env("CORDON_BENCH_PATIENTS", 100)?).await?;
    let tenant = site.tenant("peers", TenancyModel::Schema).await?;
    let report = site.import(&tenant, peers.write_charts(&site.directory).await?).await?;
    println!("{} patients with {} notes, the same for all", report.patients.new, report.notes.new);
    site.vacuum(&tenant.placement.as_ref().ok_or("no placement")?.database).await?;
    let server = site.serve(support::UNLIMITED)?;
    let token = site.token(&tenant, "clinician", "bench")?;
    let requests = peers.cordon_requests(&server, &token).await?;
    let mut contenders = vec![Contender {
        name: "cordon".into(),
        address: server.address.clone(),
        processes: [server.pid(), site.cluster.pid()],
        kinds: requests,
    }];
    let mut children = Vec::new();
    for name in NAMES {
        let (child, contender) = peers.start(name).await?;
        children.push(child);
        contenders.push(contender);
    }
    println!(
        "\n{connections} connections, {seconds} s per measurement, medians of {rounds}; µs of processor time per \
         request\n{:8} {:16} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>6}",
        "", "", "per s", "p50 ms", "p99 ms", "server", "PG", "total", "MB"
    );
    for kind in ["chart", "chart read", "note", "draft"] {
        let entries: Vec<_> = contenders
            .iter()
            .filter_map(|of| Some((of, of.kinds.iter().find(|(name, _)| *name == kind)?.1.clone())))
            .collect();
        let mut cells: Vec<Measurements> = entries.iter().map(|_| Measurements::default()).collect();
        for (of, requests) in &entries {
            load::run(&of.address, requests, 4, Duration::from_secs(1)).await?;
        }
        for _ in 0..rounds {
            for ((of, requests), cell) in entries.iter().zip(&mut cells) {
                cell.measure(&of.address, of.processes, requests, connections, time).await?;
            }
        }
        for ((of, _), cell) in entries.iter().zip(cells) {
            let (server, database) = (median(cell.server), median(cell.database));
            println!(
                "{kind:8} {:16} {:>8.0} {:>7.2} {:>7.2} {server:>7.0} {database:>7.0} {:>7.0} {:>6.0}",
                of.name,
                median(cell.rate),
                median(cell.p50),
                median(cell.p99),
                server + database,
                process_stats::memory_megabytes(of.processes[0]),
            );
        }
    }
    Ok(())
}

/// The data of the peers: the patients of one tenant, each with an encounter and a note.
struct Peers {
    directory: PathBuf,
    home: PathBuf,
    database: Client,
    postmaster: u32,
    tenant: String,
    patients: Vec<Patient>,
    body: String,
}

struct Patient {
    id: String,
    record: String,
    encounter: String,
    note: String,
}

impl Peers {
    async fn find(directory: &Path, patients: usize) -> BenchResult<Self> {
        let home =
            std::env::var_os("BENCH_HOME").map_or_else(|| std::env::temp_dir().join("chart-bench"), PathBuf::from);
        let postmaster =
            std::fs::read_to_string(home.join("data/postmaster.pid"))?.lines().next().unwrap_or_default().parse()?;
        let (database, connection) =
            tokio_postgres::connect("postgres://postgres@127.0.0.1:55403/notes", NoTls).await?;
        tokio::spawn(connection);
        // Notes of an earlier run would be part of the charts. The ids of the original data are smaller.
        database
            .batch_execute(
                "truncate app.audit_log; delete from app.clinical_notes where id > \
                '01900000-0000-0000-0000-000000000000'",
            )
            .await?;
        database.batch_execute("vacuum app.clinical_notes").await?;
        let found = "select p.tenant_id::text, p.id::text, p.mrn, n.encounter_id::text, n.id::text from app.patients p
            cross join lateral (select id, encounter_id from app.clinical_notes c where c.tenant_id = p.tenant_id and \
            c.patient_id = p.id limit 1) n
            where p.tenant_id = (select tenant_id from app.bench_tenant_range where k = 1) order by p.id limit $1";
        let rows = database.query(found, &[&i64::try_from(patients)?]).await?;
        let tenant = rows.first().ok_or("no patient")?.get(0);
        let patients = rows
            .iter()
            .map(|row| Patient { id: row.get(1), record: row.get(2), encounter: row.get(3), note: row.get(4) })
            .collect();
        let body = database
            .query_one("select left(body, 2000) from app.clinical_notes where length(body) > 2000 limit 1", &[])
            .await?
            .get(0);
        Ok(Self { directory: directory.to_owned(), home, database, postmaster, tenant, patients, body })
    }

    /// Writes the same charts as FHIR for the import into Cordon.
    async fn write_charts(&self, directory: &Path) -> BenchResult<PathBuf> {
        let file = directory.join("peers.ndjson");
        let mut out = std::io::BufWriter::new(std::fs::File::create(&file)?);
        let ids: Vec<_> = self.patients.iter().map(|patient| patient.id.as_str()).collect();
        for kind in CHARTS {
            for row in self.database.query(kind, &[&ids, &SYSTEM]).await? {
                writeln!(out, "{}", row.get::<_, &str>(0))?;
            }
        }
        out.flush()?;
        Ok(file)
    }

    /// Returns the requests to Cordon. Cordon audits every chart page, so the same requests are compared with both
    /// kinds of chart page of the peers, with and without audit.
    async fn cordon_requests(
        &self,
        server: &ServerProcess,
        token: &str,
    ) -> BenchResult<Vec<(&'static str, Arc<Vec<Request>>)>> {
        let (mut charts, mut notes, mut drafts) = (Vec::new(), Vec::new(), Vec::new());
        let by_number = "query ($system: String!, $value: String!) { patientByIdentifier(system: $system, value: \
            $value) { id encounters(first: 1) { edges { node { id notes(first: 1) { edges { node { id } } } } } } } }";
        let request = |query, variables| Request::new(&server.address, token, query, &variables);
        for patient in self.patients.iter().take(SAMPLES) {
            let found = server
                .query(
                    token,
                    by_number,
                    json!({ "system": SYSTEM,
                    "value": patient.record }),
                )
                .await?["patientByIdentifier"]
                .take();
            let encounter = &found["encounters"]["edges"][0]["node"];
            charts.push(request(CHART, json!({ "id": found["id"] })));
            notes.push(request(NOTE, json!({ "id": encounter["notes"]["edges"][0]["node"]["id"] })));
            let input = json!({ "patientId": found["id"], "encounterId": encounter["id"], "type": "11506-3",
                "body": self.body });
            drafts.push(request(DRAFT, json!({ "i": input })));
        }
        let charts = Arc::new(charts);
        Ok(vec![
            ("chart", Arc::clone(&charts)),
            ("chart read", charts),
            ("note", Arc::new(notes)),
            ("draft", Arc::new(drafts)),
        ])
    }

    /// Starts a peer and waits until it responds.
    async fn start(&self, name: &str) -> BenchResult<(Peer, Contender)> {
        let config: Value = serde_json::from_slice(&std::fs::read(
            self.directory.join("contenders").join(name).with_extension("json"),
        )?)?;
        let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut arguments = config["cmd"].as_array().into_iter().flatten().map(text);
        let program = self.home.join("node/bin").join(arguments.next().ok_or("no program")?);
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.directory.join(text(&config["cwd"])));
        command.envs(config["env"].as_object().into_iter().flatten().map(|(name, value)| (name, text(value))));
        command.env("PORT", port.to_string()).env("DATABASE_URL", "postgres://app_user@127.0.0.1:55403/notes");
        let child = Peer(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let address = format!("127.0.0.1:{port}");
        let mut kinds = Vec::new();
        for (kind, op) in [("chart", "Q1"), ("chart read", "Q1a"), ("note", "Q3"), ("draft", "M1")] {
            let operation = &config["ops"][op];
            if operation.is_object() {
                let more = operation["headers"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(name, value)| (name.clone(), text(value)));
                let headers: Vec<_> = [
                    ("x-tenant", self.tenant.clone()),
                    ("x-user", USER.to_owned()),
                    ("accept", "application/json".to_owned()),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .chain(more)
                .collect();
                let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                let of = |patient: &Patient| {
                    Request::with(
                        &address,
                        &text(&config["path"]),
                        &headers,
                        &text(&operation["query"]),
                        &self.with_patient(&operation["vars"], patient),
                    )
                };
                kinds.push((kind, Arc::new(self.patients.iter().take(SAMPLES).map(of).collect::<Vec<_>>())));
            }
        }
        let first = kinds.first().and_then(|(_, requests)| requests.first().cloned()).ok_or("no request")?;
        let started = Instant::now();
        loop {
            let attempt = async { load::Connection::open(&address).await?.send(&first).await };
            match tokio::time::timeout(Duration::from_secs(5), attempt).await {
                Ok(Ok((200, _))) => break,
                outcome if started.elapsed() > Duration::from_secs(30) => {
                    return Err(format!("{name} does not respond: {outcome:?}").into());
                }
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        let processes = [child.0.id(), self.postmaster];
        Ok((child, Contender { name: name.to_owned(), address, processes, kinds }))
    }

    /// Replaces the placeholders in the variables of a peer's request, such as `$patient`, with values of the patient.
    fn with_patient(&self, variables: &Value, patient: &Patient) -> Value {
        match variables {
            Value::Object(members) => {
                members.iter().map(|(name, value)| (name.clone(), self.with_patient(value, patient))).collect()
            }
            Value::String(word) => match word.as_str() {
                "$tenant" => json!(self.tenant),
                "$patient" => json!(patient.id),
                "$encounter" => json!(patient.encounter),
                "$note" => json!(patient.note),
                "$user" => json!(USER),
                "$body" => json!(self.body),
                _ => variables.clone(),
            },
            _ => variables.clone(),
        }
    }
}

/// A running peer. It is killed when it is dropped.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

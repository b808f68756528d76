//! Speed and memory of an import: `cordon import` loads generated NDJSON into a schema tenant on a durable PostgreSQL.
//! It is compared with the floor: the same rows, written by INSERT … SELECT without client, walls and sealing.
//! `CORDON_BENCH_NOTES` or `CORDON_BENCH_BYTES` set the size. The input is generated from the same seed each time, and
//! removed afterwards.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a bench prints its table, and stops when a report lacks a figure"
)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cordon::cluster::{Cluster, Durability, Options};
use cordon::ops::init;
use cordon::ops::operator::Operator;
use cordon::ops::provision::{self, NewTenant};
use cordon::tenant::TenancyModel;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type BenchResult<T> = Result<T, Box<dyn std::error::Error>>;

/// The number of notes per patient, as in charts of Synthea.
const NOTES_EACH: u64 = 28;

fn main() -> BenchResult<()> {
    let directory = std::env::temp_dir().join(format!("cordon-bench-{}", std::process::id()));
    let options = Options {
        dir: directory.join("cluster"),
        durability: Durability::Durable,
        binaries: None,
        settings: Vec::new(),
    };
    std::fs::create_dir(&directory)?;
    let outcome = tokio::runtime::Runtime::new()?.block_on(measure(&directory, &options));
    std::fs::remove_dir_all(&directory)?;
    outcome
}

async fn measure(directory: &Path, options: &Options) -> BenchResult<()> {
    let cluster = Cluster::start(options)?;
    let admin = cordon::db::connect::parse(&cluster.superuser_url("postgres"))?;
    let init = init::run(&admin, &directory.join("site")).await?;
    let variables: Vec<(String, String)> =
        [&init.server_env, &init.operator_env].into_iter().flat_map(settings_of).collect();
    let profile = json!({ "catalog": { "operator_url": value(&variables, "CORDON__CATALOG__OPERATOR_URL") },
        "keys": { "file": init.key_file } });
    std::fs::write(directory.join("bench.yaml"), profile.to_string())?;
    let operator = Operator::new(&cordon::config::Settings::load(Some(directory), Some("bench"))?)?;
    let new =
        NewTenant { slug: "bench".into(), name: "Bench".into(), model: TenancyModel::Schema, server: None, plan: None };
    let tenant = provision::create(&operator, &new).await?;

    let input = directory.join("charts.ndjson");
    let (notes, bytes) = generate(&input)?;
    let (report, peak_kb) = import(&input, &variables)?;
    std::fs::remove_file(&input)?;
    if report["notes"]["new"] != json!(notes) || report["rejects"] != json!(0) {
        return Err(format!("not everything was imported: {report}").into());
    }
    let schema = tenant.placement.ok_or("no placement")?.schema;
    let floor = measure_floor(&cluster, schema.as_str()).await?;

    let seconds = report["seconds"].as_f64().unwrap_or_default();
    let rate = |seconds: f64| notes as f64 / seconds;
    println!(
        "{notes} notes of {} patients, {:.0} MB of NDJSON, durable, {} cores",
        notes.div_ceil(NOTES_EACH),
        megabytes(bytes),
        cores()
    );
    println!("{:34} {:>9} {:>10}", "", "seconds", "notes/s");
    println!("{:34} {seconds:>9.1} {:>10.0}", "cordon import, schema tenant", rate(seconds));
    println!("{:34} {floor:>9.1} {:>10.0}", "floor: the same rows, bare INSERT", rate(floor));
    println!("{:34} {:>9.0} %", "share of the floor", 100.0 * floor / seconds);
    println!("{:34} {:>9.0} MB", "peak memory of the import", f64::from(peak_kb) / 1024.0);
    Ok(())
}

/// Runs the binary and reads its peak memory repeatedly. The high-water mark only rises, so the last value is the
/// result.
fn import(input: &Path, variables: &[(String, String)]) -> BenchResult<(Value, u32)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
    command.args(["import", "fhir", "--json", "--tenant", "bench"]).arg(input);
    command.envs(variables.iter().filter(|(name, _)| !name.contains("OPERATOR")).map(|(name, value)| (name, value)));
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mark = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = mark.unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(format!("cordon import ended with {}", output.status).into());
    }
    Ok((serde_json::from_slice(&output.stdout)?, peak))
}

/// Returns the seconds needed to write the notes and their versions again, in batches of the size of the importer, into
/// tables with the same indexes only.
async fn measure_floor(cluster: &Cluster, schema: &str) -> BenchResult<f64> {
    let (client, connection) =
        tokio_postgres::connect(cluster.superuser_url("cordon_data").expose_secret(), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let make = format!(
        "set search_path = {schema}; create schema floor;
         create table floor.clinical_notes (like clinical_notes including defaults including indexes);
         create table floor.note_versions (like note_versions including defaults including indexes);
         create temp table batches as select tenant_id, id, (row_number() over (order by id) - 1) / 512 as batch from \
         clinical_notes;
         create index on batches (batch); analyze batches; analyze clinical_notes; analyze note_versions; set \
         enable_hashjoin = off; set enable_mergejoin = off"
    );
    client.batch_execute(&make).await?;
    let batches: i64 = client.query_one("select max(batch) from batches", &[]).await?.get(0);
    let started = Instant::now();
    for batch in 0..=batches {
        let write = format!(
            "begin;
             insert into floor.clinical_notes select n.* from batches b join clinical_notes n using (tenant_id, id) \
             where b.batch = {batch};
             insert into floor.note_versions select v.* from batches b join note_versions v on v.tenant_id = \
             b.tenant_id and v.note_id = b.id where b.batch = {batch};
             commit"
        );
        client.batch_execute(&write).await?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Writes charts until there are enough notes or bytes. Returns their numbers.
fn generate(path: &Path) -> BenchResult<(u64, u64)> {
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse::<u64>()).transpose();
    let (max_notes, max_bytes) = (number("CORDON_BENCH_NOTES")?, number("CORDON_BENCH_BYTES")?);
    let (max_notes, max_bytes) = match max_bytes {
        Some(bytes) => (u64::MAX, bytes),
        None => (max_notes.unwrap_or(3_000), u64::MAX),
    };
    let mut out = CountingWriter { file: BufWriter::with_capacity(1 << 20, File::create(path)?), bytes: 0 };
    let mut random = Random(0x5eed);
    let mut notes = 0;
    for patient in 0.. {
        let number = format!("MRN-{patient:09}");
        writeln!(
            out,
            "{}",
            json!({ "resourceType": "Patient", "id": format!("p{patient}"), "gender": "female",
                "birthDate": "1980-02-01",
            "identifier": [{ "type": { "coding": [{ "code": "MR" }] }, "system": "urn:mrn", "value": number }],
            "name": [{ "family": random.word(), "given": [random.word()] }], "telecom": [{ "system": "phone",
                "value": "555-0100" }] })
        )?;
        for visit in 0..NOTES_EACH {
            if notes == max_notes || out.bytes >= max_bytes {
                out.file.flush()?;
                return Ok((notes, out.bytes));
            }
            let (subject, encounter) =
                (json!({ "reference": format!("Patient/p{patient}") }), format!("p{patient}-e{visit}"));
            let date = format!("20{:02}-{:02}-{:02}T10:00:00Z", visit % 24, visit % 12 + 1, patient % 28 + 1);
            writeln!(
                out,
                "{}",
                json!({ "resourceType": "Encounter", "id": encounter, "status": "finished", "class": { "code": "AMB" },
                "subject": subject, "period": { "start": date, "end": date },
                    "reasonCode": [{ "text": random.word() }] })
            )?;
            let doctor = random.next() % 100;
            writeln!(
                out,
                "{}",
                json!({ "resourceType": "DocumentReference", "id": format!("p{patient}-n{visit}"),
                    "status": "superseded",
                "type": { "coding": [{ "system": "http://loinc.org", "code": "34117-2", "display": "History and \
                    physical note" }] },
                "subject": subject, "date": date,
                "author": [{ "reference": format!("Practitioner?identifier=npi|{doctor}"), "display": format!("Dr. \
                    Number {doctor}") }],
                "context": { "encounter": [{ "reference": format!("Encounter/{encounter}") }] },
                "content": [{ "attachment": { "contentType": "text/plain; \
                    charset=utf-8", "data": STANDARD.encode(random.text()) } }] })
            )?;
            notes += 1;
        }
    }
    Err("unreachable".into())
}

/// Counts the bytes that are written.
struct CountingWriter {
    file: BufWriter<File>,
    bytes: u64,
}

impl Write for CountingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A xorshift generator with a fixed seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn word(&mut self) -> String {
        (0..3 + self.next() % 7).map(|_| char::from(b'a' + u8::try_from(self.next() % 26).unwrap_or(0))).collect()
    }

    /// Returns a text of 500 to 1,700 letters, the length of typical notes.
    fn text(&mut self) -> String {
        let length = usize::try_from(500 + self.next() % 1_200).unwrap_or(500);
        let mut text = String::with_capacity(length + 12);
        while text.len() < length {
            text.push_str(&self.word());
            text.push(if self.next().is_multiple_of(12) { '\n' } else { ' ' });
        }
        text
    }
}

/// Reads the environment variables from a file that `init` wrote.
fn settings_of(path: impl AsRef<Path>) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.into(), value.trim_matches('\'').into()))
        .collect()
}

fn value<'v>(variables: &'v [(String, String)], name: &str) -> Option<&'v str> {
    variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

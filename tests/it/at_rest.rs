//! Encryption at rest: no name or text of an imported chart is in a file of PostgreSQL, including WAL, or in a dump.

use crate::support::fhir::{encounter, note, patient, report, with};
use crate::support::import_tenant::ImportTenant;
use crate::support::options;
use crate::support::site::{MODELS, Site};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cordon::cluster::{Binaries, Cluster, Durability, Options};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A text that is stored in clear, to show that the search works.
const CONTROL: &str = "Kontrollwort-in-clear-4711";
/// Words in several scripts. Every marker begins with one of them.
const SCRIPTS: [&str; 5] = ["Zaphenath", "Ødegårdsvangen", "山田小百合", "Ξενοφώντος", "Шостаковичу"];

/// Marker texts in the imported charts.
struct Markers(Vec<String>);

impl Markers {
    fn word(&mut self, kind: &str, chart: usize) -> String {
        let text = format!("{}{kind}{chart}q", SCRIPTS[(chart + self.0.len()) % SCRIPTS.len()]);
        self.0.push(text.clone());
        text
    }

    /// Returns the bytes to search for, each with its text: UTF-8, UTF-16 in both byte orders, hexadecimal, and base64
    /// at each of the three possible offsets in a longer text.
    fn encodings(&self) -> Vec<(Vec<u8>, String)> {
        let mut all = Vec::new();
        for text in &self.0 {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
            let mut encodings = vec![
                text.clone().into_bytes(),
                wide(u16::to_le_bytes),
                wide(u16::to_be_bytes),
                hex.to_uppercase().into_bytes(),
                hex.into_bytes(),
            ];
            for before in 0..3 {
                let padded = [&b"\0\0"[..before], text.as_bytes()].concat();
                let encoded = STANDARD.encode(&padded);
                // The characters that depend on the bytes before and after are left out.
                let (from, to) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
                encodings.push(encoded.as_bytes()[from..to].to_vec());
            }
            all.extend(encodings.into_iter().map(|bytes| (bytes, text.clone())));
        }
        all
    }
}

/// A chart in which every personal text is a marker.
fn chart(markers: &mut Markers, at: usize) -> Vec<Value> {
    let mut word = |kind: &str| markers.word(kind, at);
    let birth_date = format!("19{:02}-11-{:02}", 10 + at, 3 + at);
    let (p, e) = (format!("p{at}"), format!("e{at}"));
    let subject = format!("Patient/{p}");
    let mrn = json!([{ "system": "urn:mrn", "value": word("mrn") }, { "system": "http://hl7.org/fhir/sid/us-ssn",
        "value": word("ssn") }]);
    let names = json!([{ "family": word("family"), "given": [word("given"), word("middle")] }, { "use": "maiden",
        "text": word("maiden") }]);
    let phone = json!([{ "system": "phone", "value": word("phone") }, { "system": "email",
        "value": format!("{}@example.org", word("mail")) }]);
    let address = json!([{ "line": [word("street")], "city": word("city"), "text": word("address") }]);
    let person =
        json!({ "name": names, "identifier": mrn, "telecom": phone, "address": address, "birthDate": birth_date });
    let visit = json!({ "reasonCode": [{ "text": word("reason") }], "type": [{ "text": word("visit") }] });
    let author = json!([{ "reference": subject, "display": word("author") }]);
    let title = json!({ "description": word("title"), "author": author, "category": [{ "text": word("category") }],
        "type": { "text": word("type"), "coding": [{ "system": "http://loinc.org", "code": "34117-2" }] },
        "context": { "encounter": [{ "reference": format!("Encounter/{e}"), "display": word("display") }] } });
    let body = format!("{} was seen for {}.\n{}", word("body"), word("body-reason"), word("last-line"));
    vec![
        with(patient(&p), person),
        with(encounter(&e, &subject), visit),
        with(note(&format!("n{at}"), &subject, &body), title),
        report(&format!("r{at}"), &subject, &word("report")),
    ]
}

#[test]
fn the_search_finds_every_encoding() {
    let word = format!("{}x{}", SCRIPTS[1], SCRIPTS[2]);
    let texts = Markers(vec![word.clone()]).encodings();
    let search = Search::of(&texts);
    let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
    let wide: Vec<u8> = word.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let encoded = (0..3).map(|before| STANDARD.encode(format!("{}{word} and more", "a".repeat(before))).into_bytes());
    for bytes in encoded.chain([word.clone().into_bytes(), hex.into_bytes(), wide]) {
        let content = [b"before ", bytes.as_slice(), b" after"].concat();
        assert_eq!(search.found_in(&content), BTreeSet::from([word.as_str()]), "{}", String::from_utf8_lossy(&content));
    }
    assert!(search.found_in(b"nothing of it").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_imported_text_is_on_disk_or_in_a_dump() {
    let options = Options { durability: Durability::Durable, ..options("at-rest") };
    let cluster = Cluster::start(&options).unwrap();
    let site = Site::create(&cluster, "at-rest-site").await;
    let mut markers = Markers(Vec::new());
    let charts: Vec<Value> = (0..5).flat_map(|at| chart(&mut markers, at)).collect();
    // Birth dates are searched for as whole dates, because a year or a day may occur anywhere.
    markers.0.extend(charts.iter().filter_map(|resource| resource["birthDate"].as_str().map(str::to_owned)));
    assert!(markers.0.iter().collect::<BTreeSet<_>>().len() >= 100, "{} words", markers.0.len());

    for model in MODELS {
        let target = ImportTenant::at(&site, model).await;
        let outcome = target.import(&charts).await;
        assert_eq!((outcome.report.notes.new, outcome.rejects.len()), (10, 0), "{:?}", outcome.rejects);
        // The charts are imported again with changes, because updates leave old row versions behind.
        let changed: Vec<Value> = charts
            .iter()
            .map(|resource| with(resource.clone(), json!({ "status": "amended", "gender": "male" })))
            .collect();
        target.import(&changed).await;
        assert_eq!(target.count("note_versions").await, 20);
        assert!(
            target.notes().await.iter().any(|note| note.bodies[0].contains(&markers.0[markers.0.len() - 7])),
            "the text can be decrypted"
        );
    }
    let superuser = site.superuser("cordon_data").await;
    let control = format!("create table public.control as select '{CONTROL}'::text as word");
    for sql in [&control, "vacuum", "analyze"] {
        superuser.batch_execute(sql).await.unwrap();
    }

    let binaries = Binaries::find(options.binaries.as_deref()).unwrap();
    let databases = superuser.query("select datname::text from pg_database where datallowconn", &[]).await.unwrap();
    let mut files = Vec::new();
    for row in &databases {
        let database: String = row.get(0);
        let dump = options.dir.with_extension(format!("{database}.dump"));
        let dumped = Command::new(binaries.program("pg_dump"))
            .arg(cluster.superuser_url(&database).expose_secret())
            .arg("-f")
            .arg(&dump)
            .output()
            .unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        files.push(dump);
    }
    superuser.batch_execute("checkpoint").await.unwrap();
    drop(superuser);
    cluster.stop();
    files_below(&options.dir, &mut files);
    assert!(
        files.iter().any(|path| path.components().any(|part| part.as_os_str() == "pg_wal")),
        "WAL files are searched"
    );

    let (mut found, mut bytes) = (BTreeSet::new(), 0);
    let (texts, words) = (markers.encodings(), Markers(vec![CONTROL.into()]).encodings());
    let (marker_search, control_search) = (Search::of(&texts), Search::of(&words));
    let mut controls = 0;
    for file in &files {
        let content = std::fs::read(file).unwrap();
        bytes += content.len();
        found.extend(marker_search.found_in(&content).into_iter().map(|word| format!("{word} in {}", file.display())));
        controls += usize::from(!control_search.found_in(&content).is_empty());
    }
    assert_eq!(found, BTreeSet::new());
    assert!(controls >= 3, "the control text is in the table, in WAL and in the dump: {controls}");
    println!("{} texts in 8 encodings each: none in {} files, {} MB", markers.0.len(), files.len(), bytes >> 20);
}

fn files_below(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), files);
        } else if entry.file_type().unwrap().is_file() {
            files.push(entry.path());
        }
    }
}

/// A search for many byte strings at once, by their first four bytes.
struct Search<'p> {
    by_head: std::collections::HashMap<[u8; 4], Vec<&'p (Vec<u8>, String)>>,
    heads: Vec<bool>,
}

impl<'p> Search<'p> {
    fn of(encodings: &'p [(Vec<u8>, String)]) -> Self {
        let mut search = Self { by_head: std::collections::HashMap::new(), heads: vec![false; 1 << 16] };
        for encoded in encodings {
            let head = *encoded.0.first_chunk::<4>().unwrap();
            search.heads[usize::from(u16::from_be_bytes([head[0], head[1]]))] = true;
            search.by_head.entry(head).or_default().push(encoded);
        }
        search
    }

    fn found_in(&self, content: &[u8]) -> BTreeSet<&'p str> {
        let mut found = BTreeSet::new();
        for (at, head) in content.windows(4).enumerate() {
            if self.heads[usize::from(u16::from_be_bytes([head[0], head[1]]))]
                && let Some(candidates) = self.by_head.get(head)
            {
                found.extend(
                    candidates
                        .iter()
                        .filter(|(bytes, _)| content[at..].starts_with(bytes))
                        .map(|(_, text)| text.as_str()),
                );
            }
        }
        found
    }
}

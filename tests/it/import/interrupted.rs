//! Interrupted and concurrent imports: stored batches stay, a repeated import adds the rest, and nothing is stored
//! twice.

use crate::support::fhir::{encounter, ndjson, note, patient, practitioner, with};
use crate::support::import_tenant::{ImportTenant, counts};
use crate::support::options;
use crate::support::site::{MODELS, Site};
use cordon::cluster::Cluster;
use cordon::import::run;
use cordon::import::source::Source;
use cordon::ops::OpsError;
use cordon::ops::provision;
use cordon::tenant::TenancyModel;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

/// Returns charts that fill several batches of each resource type.
fn charts(patients: usize, notes_each: usize) -> Vec<Value> {
    let mut all = vec![practitioner("d", "1", "Wolf")];
    for p in 0..patients {
        let subject = format!("Patient/p{p}");
        all.extend([patient(&format!("p{p}")), encounter(&format!("e{p}"), &subject)]);
        all.extend((0..notes_each).map(|n| {
            let author = json!([{ "reference": "Practitioner/d", "display": "Dr. Max Wolf" }]);
            let context = json!({ "encounter": [{ "reference": format!("Encounter/e{p}") }] });
            with(note(&format!("n{p}-{n}"), &subject, "seen"), json!({ "author": author, "context": context }))
        }));
    }
    all
}

/// Completes the import and checks that every resource is stored exactly once.
async fn complete_import(target: &ImportTenant<'_>, input: &[PathBuf], patients: u64, notes_each: u64) {
    let done = target.try_import(input).await.unwrap();
    assert_eq!(
        (done.report.patients.new + done.report.patients.unchanged, done.report.patients.updated),
        (patients, 0)
    );
    assert_eq!(
        (done.report.notes.new + done.report.notes.unchanged, done.report.notes.updated),
        (patients * notes_each, 0)
    );
    assert_eq!(done.rejects, []);
    let again = target.try_import(input).await.unwrap();
    assert_eq!(
        (again.report.patients, again.report.notes),
        (counts(0, 0, patients, 0), counts(0, 0, patients * notes_each, 0))
    );
    for (table, rows) in [
        ("patients", patients),
        ("encounters", patients),
        ("clinical_notes", patients * notes_each),
        ("note_versions", patients * notes_each),
        ("staff", 1),
    ] {
        assert_eq!(target.count(table).await, i64::try_from(rows).unwrap(), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_import_can_be_repeated() {
    for model in MODELS {
        let target = ImportTenant::of(model).await;
        let input = [ndjson(&charts(30, 20))];
        let mut ended = false;
        for polls in [1, 2, 4, 7, 11, 16, 22, 30, 40, 55, 75, 100] {
            let mut import = pin!(run(Source::open(&input).unwrap(), target.store(), None, |_| {}));
            let mut left = polls;
            ended = poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(false);
                }
                left -= 1;
                import.as_mut().poll(context).map(|done| done.is_ok())
            })
            .await;
        }
        println!("{model}: dropped after up to 100 polls; it had {}finished by then", if ended { "" } else { "not " });
        complete_import(&target, &input, 30, 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_imports_store_everything_once() {
    for target in ImportTenant::of_each().await {
        let input = [ndjson(&charts(40, 10))];
        let mut backwards = charts(40, 10);
        backwards.reverse();
        let other = [ndjson(&backwards)];
        let (one, two) = tokio::join!(target.try_import(&input), target.try_import(&other));
        let (one, two) = (one.unwrap().report, two.unwrap().report);
        assert_eq!((one.patients.new + two.patients.new, one.notes.new + two.notes.new), (40, 400));
        assert_eq!(one.rejects + two.rejects, 0);
        complete_import(&target, &input, 40, 10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_stops_an_import_and_it_can_be_repeated() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let input = [ndjson(&charts(30, 20))];
    let (operator, slug) = (&target.site.operator, &target.tenant.slug);
    // The tenant is suspended after the first batch.
    let suspended = std::sync::Mutex::new(false);
    let outcome = run(Source::open(&input).unwrap(), target.store(), None, |_| {
        let mut suspended = suspended.lock().unwrap();
        if !std::mem::replace(&mut *suspended, true) {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(provision::suspend(operator, slug))
            })
            .unwrap();
        }
    });
    let error = OpsError::from(outcome.await.unwrap_err());
    assert!(matches!(error, OpsError::Refused(_)) && error.exit_code() == 4, "{error}");
    assert!(error.to_string().contains("suspended"), "{error}");
    assert_eq!(target.count("clinical_notes").await, 0);
    provision::resume(operator, slug).await.unwrap();
    complete_import(&target, &input, 30, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_fails_without_database_or_keys_and_can_be_repeated() {
    let cluster = Cluster::start(&options("import-away")).unwrap();
    let site = Site::create(&cluster, "import-away-site").await;
    for model in MODELS {
        let target = ImportTenant::at(&site, model).await;
        let input = [ndjson(&charts(30, 20))];
        let killed = std::sync::Mutex::new(false);
        let outcome = run(Source::open(&input).unwrap(), target.store(), None, |_| {
            if !std::mem::replace(&mut *killed.lock().unwrap(), true) {
                kill(Pid::from_raw(cluster.pid().try_into().unwrap()), Signal::SIGKILL).unwrap();
            }
        });
        let error = OpsError::from(outcome.await.unwrap_err());
        assert_eq!(error.exit_code(), 6, "{error}");
        let started = std::time::Instant::now();
        while target.app.catalog.refresh_all().await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "PostgreSQL has not restarted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        complete_import(&target, &input, 30, 20).await;
    }
    let target = ImportTenant::at(&site, TenancyModel::Schema).await;
    let (keys, elsewhere) = (site.directory.join("keys.json"), site.directory.join("keys.elsewhere"));
    std::fs::rename(&keys, &elsewhere).unwrap();
    let Err(error) = target.try_import(&[ndjson(&charts(1, 1))]).await else {
        panic!("an import without keys succeeded")
    };
    assert_eq!(error.exit_code(), 6, "{error}");
    assert_eq!(target.count("patients").await, 0);
    std::fs::rename(&elsewhere, &keys).unwrap();
    complete_import(&target, &[ndjson(&charts(1, 1))], 1, 1).await;
}

//! Imports that do not get to their end, and two at once: what is stored stays, the same again adds the rest, and nothing comes twice.

use super::{Clinic, counts, encounter, ndjson, note, patient, practitioner, with};
use crate::options;
use crate::site::{MODELS, Site};
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

/// Charts enough for several batches of each kind.
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

/// All is there once: `patients` of them, with these notes each.
async fn complete(clinic: &Clinic<'_>, input: &[PathBuf], patients: u64, notes_each: u64) {
    let done = clinic.try_import(input).await.unwrap();
    assert_eq!(
        (done.report.patients.new + done.report.patients.unchanged, done.report.patients.updated),
        (patients, 0)
    );
    assert_eq!(
        (done.report.notes.new + done.report.notes.unchanged, done.report.notes.updated),
        (patients * notes_each, 0)
    );
    assert_eq!(done.rejects, []);
    let again = clinic.try_import(input).await.unwrap();
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
        assert_eq!(clinic.count(table).await, i64::try_from(rows).unwrap(), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_anywhere_it_goes_on_from_there() {
    for model in MODELS {
        let clinic = Clinic::of(model).await;
        let input = [ndjson(&charts(30, 20))];
        let mut ended = false;
        for polls in [1, 2, 4, 7, 11, 16, 22, 30, 40, 55, 75, 100] {
            let mut import = pin!(run(Source::open(&input).unwrap(), clinic.store(), None, |_| {}));
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
        println!("{model}: dropped after up to 100 polls; it had {}ended by then", if ended { "" } else { "not " });
        complete(&clinic, &input, 30, 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_do_the_work_of_one() {
    for clinic in Clinic::of_each().await {
        let input = [ndjson(&charts(40, 10))];
        let mut backwards = charts(40, 10);
        backwards.reverse();
        let other = [ndjson(&backwards)];
        let (one, two) = tokio::join!(clinic.try_import(&input), clinic.try_import(&other));
        let (one, two) = (one.unwrap().report, two.unwrap().report);
        assert_eq!((one.patients.new + two.patients.new, one.notes.new + two.notes.new), (40, 400));
        assert_eq!(one.rejects + two.rejects, 0);
        complete(&clinic, &input, 40, 10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspension_stops_it_and_a_resumption_lets_it_end() {
    let clinic = Clinic::of(TenancyModel::Schema).await;
    let input = [ndjson(&charts(30, 20))];
    let (operator, slug) = (&clinic.site.operator, &clinic.tenant.slug);
    // The first batch is stored when it hears of the suspension.
    let suspended = std::sync::Mutex::new(false);
    let outcome = run(Source::open(&input).unwrap(), clinic.store(), None, |_| {
        let mut suspended = suspended.lock().unwrap();
        if !std::mem::replace(&mut *suspended, true) {
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(provision::suspend(operator, slug))
            })
            .unwrap();
        }
    });
    let error = outcome.await.unwrap_err();
    assert!(matches!(error, OpsError::Refused(_)) && error.exit_code() == 4, "{error}");
    assert!(error.to_string().contains("suspended"), "{error}");
    assert_eq!(clinic.count("clinical_notes").await, 0);
    provision::resume(operator, slug).await.unwrap();
    complete(&clinic, &input, 30, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_or_keys_away_it_says_so_and_ends_later() {
    let cluster = Cluster::start(&options("import-away")).unwrap();
    let site = Site::make(&cluster, "import-away-site").await;
    for model in MODELS {
        let clinic = Clinic::at(&site, model).await;
        let input = [ndjson(&charts(30, 20))];
        let killed = std::sync::Mutex::new(false);
        let outcome = run(Source::open(&input).unwrap(), clinic.store(), None, |_| {
            if !std::mem::replace(&mut *killed.lock().unwrap(), true) {
                kill(Pid::from_raw(cluster.pid().try_into().unwrap()), Signal::SIGKILL).unwrap();
            }
        });
        let error = outcome.await.unwrap_err();
        assert_eq!(error.exit_code(), 6, "{error}");
        let began = std::time::Instant::now();
        while clinic.app.catalog.refresh_all().await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "PostgreSQL comes back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        complete(&clinic, &input, 30, 20).await;
    }
    let clinic = Clinic::at(&site, TenancyModel::Schema).await;
    let (keys, elsewhere) = (site.directory.join("keys.json"), site.directory.join("keys.elsewhere"));
    std::fs::rename(&keys, &elsewhere).unwrap();
    let Err(error) = clinic.try_import(&[ndjson(&charts(1, 1))]).await else { panic!("an import without keys") };
    assert_eq!(error.exit_code(), 6, "{error}");
    assert_eq!(clinic.count("patients").await, 0);
    std::fs::rename(&elsewhere, &keys).unwrap();
    complete(&clinic, &[ndjson(&charts(1, 1))], 1, 1).await;
}

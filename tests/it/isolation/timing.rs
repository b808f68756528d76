//! A request with the id of another tenant's record causes the same work in the database, and takes the same time, as
//! one with an id that does not exist.

use super::fixtures::{Fixtures, unknown_id};
use crate::support::fhir_charts::FhirCharts;
use crate::support::options;
use crate::support::server::TestServer;
use crate::support::site::{MODELS, Site};
use cordon::cluster::Cluster;
use serde_json::json;
use std::time::{Duration, Instant};

const CHART: &str =
    "query ($id: ID!) { patient(id: $id) { name { text } encounters { nodes { id } } notes { nodes { body } } } }";

/// PostgreSQL counts scans and rows. The cluster is the test's own, because the counters would include other tests.
#[tokio::test]
async fn l23_foreign_and_absent_ids_cause_the_same_database_work() {
    let cluster = Cluster::start(&options("timing")).unwrap();
    let site = Site::create(&cluster, "timing-site").await;
    for model in MODELS {
        let (a, b) = (site.tenant(model).await, site.tenant(model).await);
        FhirCharts { mark: "owner", patients: 3, encounters: 2, notes: 2 }.import(&site, &a).await;
        FhirCharts { mark: "neighbour", patients: 3, encounters: 2, notes: 2 }.import(&site, &b).await;
        let (token_a, token_b) = (site.token(&[a.id], "clinician", "alice"), site.token(&[b.id], "clinician", "alice"));
        let foreign_id = {
            let by_number =
                "{ patientByIdentifier(system: \"http://hospital.test/mrn\", value: \"owner-mrn-1\") { id } }";
            let data = TestServer::of(&site).data(&token_a, by_number, json!({})).await;
            data["patientByIdentifier"]["id"].as_str().unwrap().to_owned()
        };
        let database = b.placement.as_ref().unwrap().database.clone();
        let mut work = Vec::new();
        for foreign in [false, true, false, true] {
            let before = table_counters(&site, &database).await;
            {
                let server = TestServer::of(&site);
                for _ in 0..20 {
                    let id = if foreign { foreign_id.clone() } else { unknown_id('p') };
                    assert_eq!(
                        server.send_query(&token_b, CHART, json!({ "id": id })).await.body,
                        r#"{"data":{"patient":null}}"#
                    );
                }
            }
            let after = table_counters(&site, &database).await;
            work.push(after.iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>());
        }
        // The first round is not compared, because the catalog cache is cold.
        assert_eq!(work[1..3].iter().max(), work[1..3].iter().min(), "{model}: {work:?}");
        assert_eq!(work[2], work[3], "{model}: {work:?}");
        assert!(work[1][0] >= 20, "{model}: the counters did not change: {work:?}");
    }
}

/// Returns the numbers of scans and rows in the tenants' tables. Waits until all sessions have ended, because a session
/// reports its counters at its end at the latest.
async fn table_counters(site: &Site, database: &str) -> Vec<i64> {
    let session = site.superuser(database).await;
    let started = Instant::now();
    loop {
        let others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> \
            pg_backend_pid() and backend_type = 'client backend'";
        if session.query_one(others, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "sessions are still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text = "select sum(coalesce(idx_scan, 0) + seq_scan) filter (where relname = 'patients')::bigint, \
         sum(coalesce(idx_scan, 0))::bigint,
        sum(seq_scan)::bigint, sum(coalesce(idx_tup_fetch, 0))::bigint, sum(seq_tup_read)::bigint, \
        sum(n_tup_ins)::bigint
        from pg_stat_user_tables where schemaname not in ('cordon', 'cordon_catalog')";
    let row = session.query_one(text, &[]).await.unwrap();
    (0..row.len()).map(|column| row.get(column)).collect()
}

/// The medians of 200 requests each, sent alternately, differ by less than a tenth. Three attempts, because other
/// processes use the machine.
#[tokio::test]
async fn l23_foreign_and_absent_ids_take_the_same_time() {
    let fixtures = Fixtures::shared().await;
    let (a, b) = (&fixtures.owners[0], &fixtures.neighbours[0]);
    let mut medians = Vec::new();
    for _ in 0..3 {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..400 {
            let foreign = round % 2;
            let id = if foreign == 1 { a.id('p').to_owned() } else { unknown_id('p') };
            let started = Instant::now();
            fixtures.server.send_query(&b.token, CHART, json!({ "id": id })).await;
            times[foreign].push(started.elapsed());
        }
        let [absent, foreign] = times.map(|mut times| {
            times.sort();
            times[100].as_secs_f64()
        });
        medians.push((absent, foreign));
        if (absent / foreign - 1.0).abs() < 0.1 {
            return;
        }
    }
    panic!("medians of absent and foreign differ by more than a tenth: {medians:?}");
}

//! A neighbour's id and one that is nobody's: the same work for the database, and the same time.

use super::world::{World, stranger};
use crate::charts::Charts;
use crate::options;
use crate::server::Server;
use crate::site::{MODELS, Site};
use cordon::cluster::Cluster;
use serde_json::json;
use std::time::{Duration, Instant};

const CHART: &str =
    "query ($id: ID!) { patient(id: $id) { name { text } encounters { nodes { id } } notes { nodes { body } } } }";

/// Statements and rows are counted by PostgreSQL, in a cluster where nobody else is counted with them.
#[tokio::test]
async fn l23_absent_and_foreign_alike() {
    let cluster = Cluster::start(&options("alike")).unwrap();
    let site = Site::make(&cluster, "alike-site").await;
    for model in MODELS {
        let (a, b) = (site.tenant(model).await, site.tenant(model).await);
        Charts { mark: "vor", patients: 3, encounters: 2, notes: 2 }.import(&site, &a).await;
        Charts { mark: "hin", patients: 3, encounters: 2, notes: 2 }.import(&site, &b).await;
        let (token_a, token_b) = (site.token(&[a.id], "clinician", "alice"), site.token(&[b.id], "clinician", "alice"));
        let theirs = {
            let by_number =
                "{ patientByIdentifier(system: \"http://hospital.test/mrn\", value: \"vor-mrn-1\") { id } }";
            let data = Server::of(&site).data(&token_a, by_number, json!({})).await;
            data["patientByIdentifier"]["id"].as_str().unwrap().to_owned()
        };
        let database = b.placement.as_ref().unwrap().database.clone();
        let mut work = Vec::new();
        for foreign in [false, true, false, true] {
            let before = counted(&site, &database).await;
            {
                let server = Server::of(&site);
                for _ in 0..20 {
                    let id = if foreign { theirs.clone() } else { stranger('p') };
                    assert_eq!(
                        server.reply(&token_b, CHART, json!({ "id": id })).await.body,
                        r#"{"data":{"patient":null}}"#
                    );
                }
            }
            let after = counted(&site, &database).await;
            work.push(after.iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>());
        }
        // The first round is with a cold catalog.
        assert_eq!(work[1..3].iter().max(), work[1..3].iter().min(), "{model}: {work:?}");
        assert_eq!(work[2], work[3], "{model}: {work:?}");
        assert!(work[1][0] >= 20, "{model}: nothing was counted, {work:?}");
    }
}

/// Transactions, and rows fetched and scans made in the tenants' tables. What a session did is counted for sure once it has ended.
async fn counted(site: &Site, database: &str) -> Vec<i64> {
    let session = site.superuser(database).await;
    let began = Instant::now();
    loop {
        let others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'";
        if session.query_one(others, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "sessions stay open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let text =
        "select sum(coalesce(idx_scan, 0) + seq_scan) filter (where relname = 'patients')::bigint, sum(coalesce(idx_scan, 0))::bigint,
        sum(seq_scan)::bigint, sum(coalesce(idx_tup_fetch, 0))::bigint, sum(seq_tup_read)::bigint, sum(n_tup_ins)::bigint
        from pg_stat_user_tables where schemaname not in ('cordon', 'cordon_catalog')";
    let row = session.query_one(text, &[]).await.unwrap();
    (0..row.len()).map(|column| row.get(column)).collect()
}

/// Medians of 200, taken in turn, within a tenth; up to three times, since others use the machine.
#[tokio::test]
async fn l23_absent_and_foreign_take_the_same_time() {
    let world = World::get().await;
    let (a, b) = (&world.mine[0], &world.others[0]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..400 {
            let foreign = round % 2;
            let id = if foreign == 1 { a.id('p').to_owned() } else { stranger('p') };
            let began = Instant::now();
            world.server.reply(&b.token, CHART, json!({ "id": id })).await;
            times[foreign].push(began.elapsed());
        }
        let [absent, foreign] = times.map(|mut times| {
            times.sort();
            times[100].as_secs_f64()
        });
        seen.push((absent, foreign));
        if (absent / foreign - 1.0).abs() < 0.1 {
            return;
        }
    }
    panic!("medians of absent and foreign differ by more than a tenth: {seen:?}");
}

//! The chart page: its round trips, statements and plans; that it is the same in all tenancy models; and that paging
//! returns every note.

use crate::support::counting_proxy::CountingProxy;
use crate::support::fhir_charts::{FhirCharts, SYSTEM};
use crate::support::options;
use crate::support::server::TestServer;
use crate::support::site::{MODELS, Site};
use cordon::cluster::{Cluster, Options};
use serde_json::{Value, json};
use std::time::Duration;

/// One patient with the ten newest encounters, and their notes with text, author and type.
const CHART: &str = include_str!("chart.graphql");
const CHARTS: FhirCharts<'_> = FhirCharts { mark: "pagezq", patients: 2, encounters: 12, notes: 3 };
/// The maximum number of round trips to PostgreSQL for the whole page.
const MAX_ROUND_TRIPS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chart_page_takes_three_round_trips() {
    let cluster = Cluster::start(&options("chart")).unwrap();
    let site = Site::create(&cluster, "chart-site").await;
    let proxy = CountingProxy::in_front_of(cluster.socket_dir());
    let mut tenants = Vec::new();
    for model in MODELS {
        let tenant = site.tenant(model).await;
        CHARTS.import(&site, &tenant).await;
        tenants.push((model, tenant));
    }
    proxy.route_tenants_of(&site).await;
    let server = TestServer::of(&site);
    let mut pages = Vec::new();
    for (model, tenant) in tenants {
        let token = site.token(&[tenant.id], "clinician", "alice");
        let patient = patient(&server, &token).await;
        let variables = json!({ "patient": patient });
        let first = server.data(&token, CHART, variables.clone()).await;
        for _ in 0..3 {
            assert_eq!(
                server.data(&token, CHART, variables.clone()).await,
                first,
                "prepared statements return the same as new ones"
            );
        }
        // The minimum of five: on a busy machine the driver is sometimes interrupted between two messages of one round
        // trip.
        let (mut round_trips, mut warm) = (usize::MAX, Value::Null);
        for _ in 0..5 {
            let before = proxy.traffic();
            warm = server.data(&token, CHART, variables.clone()).await;
            let traffic = proxy.traffic().since(before);
            round_trips = round_trips.min(traffic.round_trips);
            assert_eq!(traffic.sessions, 0, "a warm page opens no session");
        }
        println!("{model}: the chart page takes {round_trips} round trips");
        assert!((1..=MAX_ROUND_TRIPS).contains(&round_trips), "{model}: {round_trips} round trips");
        let encounters = warm["patient"]["encounters"]["edges"].as_array().unwrap();
        assert_eq!((encounters.len(), &warm["patient"]["encounters"]["pageInfo"]["hasNextPage"]), (10, &json!(true)));
        assert!(encounters.iter().all(|edge| edge["node"]["notes"]["edges"].as_array().unwrap().len() == 3), "{warm}");
        assert!(warm.to_string().matches("pagezqbody of").count() == 30, "every note has its text");
        pages.push((model, comparable(warm)));
    }
    for (model, page) in &pages {
        assert_eq!(page, &pages[0].1, "{model}: the same chart in every model");
    }
}

/// Planning a statement costs more than running it. After a few rounds, plans are cached for all arguments.
#[tokio::test]
async fn plans_are_cached() {
    let options = options("plans");
    let settings = options
        .settings
        .iter()
        .cloned()
        .chain([("log_planner_stats".into(), "on".into()), ("autovacuum".into(), "off".into())])
        .collect();
    let cluster = Cluster::start(&Options { settings, ..options }).unwrap();
    let site = Site::create(&cluster, "plans-site").await;
    let tenant = site.tenant(MODELS[1]).await;
    CHARTS.import(&site, &tenant).await;
    site.superuser("cordon_data").await.batch_execute("analyze").await.unwrap();
    let server = TestServer::of(&site);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let patient = patient(&server, &token).await;
    let note =
        server.data(&token, "{ notes(first: 1) { nodes { id } } }", json!({})).await["notes"]["nodes"][0]["id"].take();
    let planned = || {
        std::fs::read_to_string(crate::support::run_dir().join("plans/log"))
            .unwrap()
            .matches("PLANNER STATISTICS")
            .count()
    };
    let rounds = 10;
    for (what, query, variables) in [
        ("a chart page", CHART, json!({ "patient": patient })),
        ("a note", "query ($note: ID!) { note(id: $note) { title body author { name } } }", json!({ "note": note })),
        ("a page of patients", "{ patients(first: 50) { nodes { name { text } identifiers { value } } } }", json!({})),
        ("a timeline", "{ notes(first: 20) { nodes { title author { name } } } }", json!({})),
    ] {
        for _ in 0..rounds {
            server.data(&token, query, variables.clone()).await;
        }
        let before = planned();
        for _ in 0..rounds {
            server.data(&token, query, variables.clone()).await;
        }
        let planned = planned() - before;
        println!("{what}: {planned} plans in {rounds} rounds");
        // Settings, binding and audit row are sent as text, which is planned each time. The catalog is read now and
        // then.
        assert!((3 * rounds..4 * rounds).contains(&planned), "{what}: {planned} plans in {rounds} rounds");
    }
}

/// A plan that was cached for small tables stays cheap when the tables have grown and were not analyzed since.
#[tokio::test]
async fn plans_cached_for_small_tables_do_not_scan_large_ones() {
    let options = options("grown");
    let settings = options.settings.iter().cloned().chain([("autovacuum".into(), "off".into())]).collect();
    let cluster = Cluster::start(&Options { settings, ..options }).unwrap();
    let site = Site::create(&cluster, "grown-site").await;
    // Both tenants are in the same tables.
    let (tenant, neighbour) = (site.tenant(MODELS[0]).await, site.tenant(MODELS[0]).await);
    CHARTS.import(&site, &tenant).await;
    let superuser = site.superuser("cordon_data").await;
    superuser.batch_execute("analyze").await.unwrap();
    let server = TestServer::of(&site);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let variables = json!({ "patient": patient(&server, &token).await });
    let before = server.data(&token, CHART, variables.clone()).await;
    for _ in 0..12 {
        server.data(&token, CHART, variables.clone()).await;
    }
    FhirCharts { mark: "grownzq", patients: 200, encounters: 10, notes: 2 }.import(&site, &neighbour).await;
    let rows_read = async || {
        // A backend reports its counters after it has been idle for a second.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let sum = "select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint from pg_stat_all_tables \
            where schemaname = 'shared'";
        superuser.query_one(sum, &[]).await.unwrap().get::<_, i64>(0)
    };
    let (rounds, started) = (5, rows_read().await);
    for _ in 0..rounds {
        assert_eq!(server.data(&token, CHART, variables.clone()).await, before);
    }
    let rows = (rows_read().await - started) / rounds;
    println!("a chart page of 41 rows reads {rows}");
    assert!(rows < 400, "a chart page reads {rows} rows");
}

/// Each level of a page is one statement, regardless of the number of patients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_patients_takes_four_statements() {
    let (cluster, site) = Site::with_own_cluster("statements").await;
    let proxy = CountingProxy::in_front_of(cluster.socket_dir());
    let tenant = site.tenant(MODELS[1]).await;
    FhirCharts { mark: "statezq", patients: 50, encounters: 10, notes: 1 }.import(&site, &tenant).await;
    proxy.route_tenants_of(&site).await;
    let server = TestServer::of(&site);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let query = "query ($first: Int) { patients(first: $first) { edges { node { name { text } identifiers { value }
        encounters(first: 10) { edges { node { reason notes(first: 5) { edges { node { title body } } } } } } } } } }";
    // The first request opens the session and checks the walls.
    server.data(&token, query, json!({ "first": 1 })).await;
    for first in [1, 5, 50] {
        let before = proxy.traffic();
        let page = server.data(&token, query, json!({ "first": first })).await;
        let traffic = proxy.traffic().since(before);
        assert_eq!(page.to_string().matches("statezqbody of").count(), first * 10, "every note of every encounter");
        println!("{first} patients: {} statements", traffic.statements);
        assert_eq!(traffic.statements, 4, "{first} patients: patients, identifiers, encounters, notes");
    }
}

/// The lists of a patient are fetched together with the patient: once, with their arguments, and only if the caller may
/// read them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_fetched_with_their_patient() {
    let (cluster, site) = Site::with_own_cluster("ahead").await;
    let proxy = CountingProxy::in_front_of(cluster.socket_dir());
    let tenant = site.tenant(MODELS[1]).await;
    CHARTS.import(&site, &tenant).await;
    proxy.route_tenants_of(&site).await;
    let server = TestServer::of(&site);
    let [clinician, admin] = ["clinician", "admin"].map(|role| site.token(&[tenant.id], role, role));
    let id = patient(&server, &clinician).await;
    let lists =
        "query ($id: ID!, $n: Int = 3) { patient(id: $id) { sex encounters(first: $n) { nodes { class } } ...N } }
        fragment N on Patient { notes(last: 2) { nodes { title } } }";
    let twice = "query ($id: ID!) { patient(id: $id) { sex encounters(first: 1) { nodes { class } } more: \
        encounters(first: 4) { nodes { class } } } }";
    let no_page = "query ($id: ID!) { patient(id: $id) { sex encounters(first: 0) { nodes { class } } } }";
    for (token, query, statements, encounters) in
        [(&clinician, lists, 3, 3), (&clinician, twice, 3, 1), (&clinician, no_page, 1, 0), (&admin, lists, 1, 0)]
    {
        server.send_query(token, query, json!({ "id": id })).await;
        let before = proxy.traffic();
        let response = server.send_query(token, query, json!({ "id": id })).await;
        let traffic = proxy.traffic().since(before);
        assert_eq!(traffic.statements, statements, "{query}: {response:?}");
        assert_eq!(
            response.json()["data"]["patient"]["encounters"]["nodes"].as_array().map_or(0, Vec::len),
            encounters,
            "{response:?}"
        );
    }
    // No access is recorded for the denied lists.
    let refused = server.send_query(&admin, lists, json!({ "id": id })).await;
    let session = site.superuser("cordon_data").await;
    let fields = format!(
        "select fields from {}.audit_log where request_id = $1::text::uuid and outcome = 'success'",
        tenant.placement.unwrap().schema
    );
    let rows = session.query(&fields, &[&refused.headers["x-request-id"]]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<Vec<String>>>(), [["sex"]]);
    let page = server.data(&clinician, lists, json!({ "id": id })).await;
    assert_eq!(
        page["patient"]["notes"]["nodes"],
        json!([{ "title": "pagezqtitle p0e0n0" }, { "title": "pagezqtitle p0loose" }])
    );
    let more = server.data(&clinician, twice, json!({ "id": id })).await;
    assert_eq!(more["patient"]["more"]["nodes"].as_array().unwrap().len(), 4);
}

/// Paging forwards and backwards with several page sizes returns each note once and in order.
#[tokio::test]
async fn paging_returns_every_note_once() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    for model in MODELS {
        let tenant = site.tenant(model).await;
        CHARTS.import(site, &tenant).await;
        let token = site.token(&[tenant.id], "clinician", "alice");
        let id = patient(&server, &token).await;
        let all = notes(&server, &token, &id, json!({ "first": 200 })).await;
        assert_eq!(all.titles.len(), 37);
        assert!(!all.has_next && !all.has_previous);
        let mut expected: Vec<_> =
            (0..12).rev().flat_map(|e| (0..3).rev().map(move |n| format!("pagezqtitle p0e{e}n{n}"))).collect();
        expected.push("pagezqtitle p0loose".into());
        assert_eq!(all.titles, expected, "newest first");
        for size in [1, 7, 36, 37, 38] {
            let (mut forwards, mut after) = (Vec::new(), Value::Null);
            loop {
                let page = notes(&server, &token, &id, json!({ "first": size, "after": after })).await;
                assert_eq!(page.has_previous, !forwards.is_empty());
                forwards.extend(page.titles);
                after = page.end;
                if !page.has_next {
                    break;
                }
            }
            assert_eq!(forwards, expected, "{model}: by {size} from the newest");
            let (mut backwards, mut before) = (Vec::new(), Value::Null);
            loop {
                let page = notes(&server, &token, &id, json!({ "last": size, "before": before })).await;
                assert_eq!(page.has_next, !backwards.is_empty());
                backwards.splice(0..0, page.titles);
                before = page.start;
                if !page.has_previous {
                    break;
                }
            }
            assert_eq!(backwards, expected, "{model}: by {size} from the oldest");
        }
    }
}

async fn patient(server: &TestServer<'_>, token: &str) -> String {
    let query =
        "query ($system: String!, $value: String!) { patientByIdentifier(system: $system, value: $value) { id } }";
    let data = server.data(token, query, json!({ "system": SYSTEM, "value": CHARTS.record_number(0) })).await;
    data["patientByIdentifier"]["id"].as_str().unwrap().to_owned()
}

struct Notes {
    titles: Vec<String>,
    start: Value,
    end: Value,
    has_next: bool,
    has_previous: bool,
}

async fn notes(server: &TestServer<'_>, token: &str, patient: &str, mut variables: Value) -> Notes {
    let query = "query ($id: ID!, $first: Int, $after: String, $last: Int, $before: String) { patient(id: $id) {
        notes(first: $first, after: $after, last: $last, before: $before) {
            edges { node { title } } pageInfo { startCursor endCursor hasNextPage hasPreviousPage } } } }";
    variables["id"] = patient.into();
    let mut data = server.data(token, query, variables).await;
    let page = data["patient"]["notes"].take();
    let titles = page["edges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|edge| edge["node"]["title"].as_str().unwrap().to_owned())
        .collect();
    let info = &page["pageInfo"];
    let (has_next, has_previous) = (info["hasNextPage"] == true, info["hasPreviousPage"] == true);
    Notes { titles, start: info["startCursor"].clone(), end: info["endCursor"].clone(), has_next, has_previous }
}

/// Removes ids and cursors, which differ between tenants. The page contains no times of the server, except when an
/// imported note was signed.
fn comparable(mut page: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.retain(|name, _| !["id", "endCursor", "cursor"].contains(&name.as_str()));
                members.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut page);
    page
}

//! The chart page: how often it goes to PostgreSQL and back, that it is the same in all models, and that its pages leave nothing out.

use crate::charts::{Charts, SYSTEM};
use crate::options;
use crate::proxy::Proxy;
use crate::server::Server;
use crate::site::{MODELS, Site};
use cordon::db::cluster::Cluster;
use serde_json::{Value, json};

const CHART: &str = include_str!("chart.graphql");
const CHARTS: Charts<'_> = Charts { mark: "pagezq", patients: 2, encounters: 12, notes: 3 };
/// To PostgreSQL and back, at most, for the whole page.
const MOST_FLIGHTS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chart_page_takes_four_flights() {
    let cluster = Cluster::start(&options("chart")).unwrap();
    let site = Site::make(&cluster, "chart-site").await;
    let proxy = Proxy::before(cluster.socket_dir());
    let mut tenants = Vec::new();
    for model in MODELS {
        let tenant = site.tenant(model).await;
        CHARTS.import(&site, &tenant).await;
        tenants.push((model, tenant));
    }
    proxy.stands_before(&site).await;
    let server = Server::of(&site);
    let mut pages = Vec::new();
    for (model, tenant) in tenants {
        let token = site.token(&[tenant.id], "clinician", "alice");
        let patient = patient(&server, &token).await;
        let variables = json!({ "patient": patient });
        let first = server.data(&token, CHART, variables.clone()).await;
        for _ in 0..3 {
            assert_eq!(server.data(&token, CHART, variables.clone()).await, first, "prepared statements answer like fresh ones");
        }
        // The best of five: on a busy machine the driver is now and then interrupted between two messages of one flight.
        let (mut flights, mut warm) = (usize::MAX, Value::Null);
        for _ in 0..5 {
            let before = proxy.seen();
            warm = server.data(&token, CHART, variables.clone()).await;
            let seen = proxy.seen().since(before);
            flights = flights.min(seen.flights);
            assert_eq!(seen.sessions, 0, "a warm page opens no session");
        }
        println!("{model}: the chart page takes {flights} flights");
        assert!((1..=MOST_FLIGHTS).contains(&flights), "{model}: {flights} flights");
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

/// However many patients are on a page, each level of it is one statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_patients_takes_four_statements() {
    let (cluster, site) = Site::alone("statements").await;
    let proxy = Proxy::before(cluster.socket_dir());
    let tenant = site.tenant(MODELS[1]).await;
    Charts { mark: "statezq", patients: 50, encounters: 10, notes: 1 }.import(&site, &tenant).await;
    proxy.stands_before(&site).await;
    let server = Server::of(&site);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let query = "query ($first: Int) { patients(first: $first) { edges { node { name { text } identifiers { value }
        encounters(first: 10) { edges { node { reason notes(first: 5) { edges { node { title body } } } } } } } } } }";
    // Opens the session and looks at its walls.
    server.data(&token, query, json!({ "first": 1 })).await;
    for first in [1, 5, 50] {
        let before = proxy.seen();
        let page = server.data(&token, query, json!({ "first": first })).await;
        let seen = proxy.seen().since(before);
        assert_eq!(page.to_string().matches("statezqbody of").count(), first * 10, "every note of every encounter");
        println!("{first} patients: {} statements", seen.statements);
        assert_eq!(seen.statements, 4, "{first} patients: patients, identifiers, encounters, notes");
    }
}

/// Forwards and backwards, in steps that end in the middle and steps that end with the list: each note once, in order.
#[tokio::test]
async fn pages_hold_every_note_once() {
    let site = Site::shared().await;
    let server = Server::of(site);
    for model in MODELS {
        let tenant = site.tenant(model).await;
        CHARTS.import(site, &tenant).await;
        let token = site.token(&[tenant.id], "clinician", "alice");
        let id = patient(&server, &token).await;
        let all = notes(&server, &token, &id, json!({ "first": 200 })).await;
        assert_eq!(all.titles.len(), 37);
        assert!(!all.has_next && !all.has_previous);
        let mut expected: Vec<_> = (0..12).rev().flat_map(|e| (0..3).rev().map(move |n| format!("pagezqtitle p0e{e}n{n}"))).collect();
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

async fn patient(server: &Server<'_>, token: &str) -> String {
    let query = "query ($system: String!, $value: String!) { patientByIdentifier(system: $system, value: $value) { id } }";
    let data = server.data(token, query, json!({ "system": SYSTEM, "value": CHARTS.number(0) })).await;
    data["patientByIdentifier"]["id"].as_str().unwrap().to_owned()
}

struct Notes {
    titles: Vec<String>,
    start: Value,
    end: Value,
    has_next: bool,
    has_previous: bool,
}

async fn notes(server: &Server<'_>, token: &str, patient: &str, mut variables: Value) -> Notes {
    let query = "query ($id: ID!, $first: Int, $after: String, $last: Int, $before: String) { patient(id: $id) {
        notes(first: $first, after: $after, last: $last, before: $before) {
            edges { node { title } } pageInfo { startCursor endCursor hasNextPage hasPreviousPage } } } }";
    variables["id"] = patient.into();
    let mut data = server.data(token, query, variables).await;
    let page = data["patient"]["notes"].take();
    let titles = page["edges"].as_array().unwrap().iter().map(|edge| edge["node"]["title"].as_str().unwrap().to_owned()).collect();
    let info = &page["pageInfo"];
    let (has_next, has_previous) = (info["hasNextPage"] == true, info["hasPreviousPage"] == true);
    Notes { titles, start: info["startCursor"].clone(), end: info["endCursor"].clone(), has_next, has_previous }
}

/// Without what each tenant has of its own: ids and cursors. The server's times are not on the page, but for the signing of what came signed.
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

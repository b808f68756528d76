//! The chart page: how often it goes to PostgreSQL and back, that it is the same in all models, and that its pages leave nothing out.

use crate::charts::{Charts, SYSTEM};
use crate::options;
use crate::server::Server;
use crate::site::{MODELS, Site};
use cordon::db::cluster::Cluster;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

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
    let address = format!("postgres:///?host={}&port=5432", proxy.directory.display());
    let moved = site.superuser("cordon_control").await.execute("update cordon_catalog.servers set address = $1", &[&address]).await;
    assert_eq!(moved.unwrap(), 1);
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
            let before = (proxy.flights.load(Ordering::SeqCst), proxy.sessions.load(Ordering::SeqCst));
            warm = server.data(&token, CHART, variables.clone()).await;
            flights = flights.min(proxy.flights.load(Ordering::SeqCst) - before.0);
            assert_eq!(proxy.sessions.load(Ordering::SeqCst), before.1, "a warm page opens no session");
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
        let none = notes(&server, &token, &id, json!({ "first": 0 })).await;
        assert!(none.titles.is_empty() && none.has_next);
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

/// A socket in front of PostgreSQL's that counts how often its clients speak after it has spoken.
struct Proxy {
    directory: PathBuf,
    flights: Arc<AtomicUsize>,
    sessions: Arc<AtomicUsize>,
}

impl Proxy {
    fn before(sockets: &Path) -> Self {
        let directory = crate::run_dir().join("proxy");
        std::fs::create_dir(&directory).unwrap();
        let listener = UnixListener::bind(directory.join(".s.PGSQL.5432")).unwrap();
        let server = sockets.join(".s.PGSQL.5432");
        let (flights, sessions) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let proxy = Self { directory, flights: Arc::clone(&flights), sessions: Arc::clone(&sessions) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                sessions.fetch_add(1, Ordering::SeqCst);
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(Self::pass(client, server, Arc::clone(&flights)));
            }
        });
        proxy
    }

    async fn pass(mut client: UnixStream, mut server: UnixStream, flights: Arc<AtomicUsize>) {
        let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut servers_turn = false;
        loop {
            tokio::select! {
                read = client.read(&mut asked) => match read {
                    Ok(length) if length > 0 => {
                        if !std::mem::replace(&mut servers_turn, true) {
                            flights.fetch_add(1, Ordering::SeqCst);
                        }
                        if server.write_all(&asked[..length]).await.is_err() { return }
                    }
                    _ => return,
                },
                read = server.read(&mut answered) => match read {
                    Ok(length) if length > 0 => {
                        servers_turn = false;
                        if client.write_all(&answered[..length]).await.is_err() { return }
                    }
                    _ => return,
                },
            }
        }
    }
}

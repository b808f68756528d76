//! Rate and concurrency limits: requests over a limit get status 429 with `Retry-After`, and other tenants are not
//! affected.

use crate::support::chart_writer::{ChartWriter, DRAFT};
use crate::support::fhir_charts::FhirCharts;
use crate::support::server::{Response, TestServer};
use crate::support::site::{Site, admitted_guard, insert_patient, patient_names, patient_names_in};
use cordon::app::App;
use cordon::config::{Admission, Settings};
use cordon::error::Error;
use cordon::isolation::BootCheck;
use cordon::ops::provision;
use cordon::ops::settings::{self, SettingValue as Number, SettingsChange};
use cordon::tenant::{TenancyModel, Tenant};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use uuid::Uuid;

const ME: &str = "{ viewer { id } }";

fn settings(site: &Site, requests_per_second: u32, concurrency: u32) -> Settings {
    let mut settings = site.server_settings();
    settings.admission = Admission {
        requests_per_second,
        concurrency,
        principal_requests_per_second: requests_per_second / 2,
        principal_concurrency: concurrency / 2,
    };
    settings
}

fn retry_after(response: &Response) -> u64 {
    assert_eq!(response.status_and_code(), (429, "RATE_LIMITED".into()), "{response:?}");
    assert!(response.json().get("data").is_none());
    let seconds = response.headers["retry-after"].parse().unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
    seconds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l32_a_noisy_tenant_is_limited_and_its_neighbour_is_served() {
    let site = Site::shared().await;
    let (noisy, quiet) = (site.tenant(TenancyModel::Shared).await, site.tenant(TenancyModel::Shared).await);
    let server = TestServer::start(site, settings(site, 40, 16), BootCheck::Dev);
    let people: Vec<_> = (0..8).map(|n| site.token(&[noisy.id], "clinician", &format!("noisy-{n}"))).collect();
    let neighbour = site.token(&[quiet.id], "clinician", "alice");
    let started = Instant::now();
    // Many more concurrent requests than the limit allows, but fewer than a process may have open files.
    let flood = stream::iter((0..800).map(|n| server.send_query(&people[n % people.len()], ME, Value::Null)));
    let flood = flood.buffer_unordered(200).collect::<Vec<_>>();
    let neighbours = async {
        let mut responses = Vec::new();
        for _ in 0..30 {
            responses.push(server.send_query(&neighbour, ME, Value::Null).await);
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        responses
    };
    let (flood, neighbours) = futures_util::join!(flood, neighbours);
    let took = started.elapsed();
    assert!(neighbours.iter().all(|response| response.status == 200), "a request of the neighbour was rejected");
    let (served, limited): (Vec<_>, Vec<_>) = flood.iter().partition(|response| response.status == 200);
    assert!(limited.iter().all(|response| retry_after(response) >= 1));
    // The bucket holds the requests of one second and is refilled meanwhile.
    let max_served = 40.0 * (1.0 + took.as_secs_f64()) + 1.0;
    println!(
        "800 requests of a noisy tenant in {took:?}: {} served, {} limited; 30 requests of a neighbour: all served",
        served.len(),
        limited.len()
    );
    assert!(
        served.len() >= 20 && served.len() as f64 <= max_served && limited.len() > 400,
        "{} served in {took:?}",
        served.len()
    );
    // After the time in `Retry-After` a request is served.
    tokio::time::sleep(Duration::from_secs(retry_after(limited[0]))).await;
    assert_eq!(server.send_query(&people[0], ME, Value::Null).await.status, 200);
}

/// The server reads the whole request that it rejects, so that the client can use the connection again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejection_keeps_the_connection_open() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let server = TestServer::start(site, settings(site, 2, 10), BootCheck::Dev);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let body = json!({ "query": format!("{ME}{}", " ".repeat(20_000)) }).to_string();
    let head = |token: &str, more: &str| {
        format!(
            "POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\n{more}\r\n{body}",
            body.len()
        )
    };
    let requests =
        [head(&token, ""), head("x.y.z", ""), head(&token, ""), head(&token, "connection: close\r\n")].concat();
    let all = server.send_raw(requests.as_bytes()).await;
    let statuses =
        [all.status.to_string()].into_iter().chain(all.body.split("HTTP/1.1 ").skip(1).map(|one| one[..3].to_owned()));
    assert_eq!(statuses.collect::<Vec<_>>(), ["200", "401", "429", "429"], "{all:?}");
}

/// A response that the client does not read counts as one of the caller's concurrent requests until the connection
/// times out.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_disconnected() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(TenancyModel::Shared).await).await;
    let input = json!({ "patientId": writer.patient, "type": "34117-2", "body": "x".repeat(450_000) });
    let drafted = writer.mutate(&writer.alice, DRAFT, input).await.unwrap();
    let note = &drafted["id"];
    let mut settings = settings(site, 1000, 4);
    // Long enough for both responses to begin on a busy machine.
    settings.http.stalled_seconds = 3;
    let server = TestServer::start(site, settings, BootCheck::Dev);
    // The response is larger than the socket buffers.
    let body = json!({ "query": format!("{{ {} }}", (0..25).map(|n| format!("a{n}: note(id: {note}) {{ body }} \
        ")).collect::<String>()) });
    let body = body.to_string();
    let request = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        writer.alice,
        body.len()
    );
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let address = server.url.trim_start_matches("http://").trim_end_matches("/graphql");
        let mut socket = socket.connect(address.parse().unwrap()).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        stalled.push(socket);
    }
    for socket in &mut stalled {
        let mut head = [0; 15];
        socket.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
    }
    let started = Instant::now();
    assert_eq!(
        server.send_query(&writer.alice, ME, Value::Null).await.status,
        429,
        "two of her responses are still being sent"
    );
    let other = site.token(&[writer.tenant.id], "clinician", "other");
    assert_eq!(server.send_query(&other, ME, Value::Null).await.status, 200);
    while server.send_query(&writer.alice, ME, Value::Null).await.status != 200 {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() > Duration::from_millis(500), "the server waited for the client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_principal_has_a_limit_of_its_own() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let server = TestServer::start(site, settings(site, 20, 100), BootCheck::Dev);
    let (busy, other) = (site.token(&[tenant.id], "clinician", "busy"), site.token(&[tenant.id], "clinician", "other"));
    let responses = join_all((0..60).map(|_| server.send_query(&busy, ME, Value::Null))).await;
    let last = responses.iter().find(|response| response.status != 200).expect("a refusal");
    assert!(responses.iter().any(|response| response.status == 200));
    assert_eq!(
        server.send_query(&other, ME, Value::Null).await.status,
        200,
        "rejected requests of one principal do not count for the tenant"
    );
    // The limit is checked after authentication and before the body is parsed.
    let nonsense = Response::of(server.post(&busy).header("content-type", "application/json").body("{{{"));
    let flood = join_all((0..20).map(|_| server.send_query(&busy, ME, Value::Null)));
    let (nonsense, _) = futures_util::join!(nonsense, flood);
    assert!([400, 429].contains(&nonsense.status));
    assert_eq!(server.send_query("x.y.z", ME, Value::Null).await.status, 401);
    tokio::time::sleep(Duration::from_secs(retry_after(last))).await;
    assert_eq!(server.send_query(&busy, ME, Value::Null).await.status, 200);
    // A suspended tenant gets 403, not 429.
    provision::suspend(&site.operator, &tenant.slug).await.unwrap();
    let started = Instant::now();
    while server.send_query(&other, ME, Value::Null).await.status != 403 {
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    let responses = join_all((0..60).map(|_| server.send_query(&busy, ME, Value::Null))).await;
    assert!(responses.iter().all(|response| response.status_and_code() == (403, "TENANT_SUSPENDED".into())));
}

/// Creates a schema tenant with a chart. Returns a token, a query that reads the chart, and a superuser's session that
/// can block the query.
async fn tenant_with_blockable_query(site: &Site) -> (Tenant, String, String, tokio_postgres::Client) {
    let tenant = site.tenant(TenancyModel::Schema).await;
    FhirCharts { mark: "slowzq", patients: 1, encounters: 1, notes: 1 }.import(site, &tenant).await;
    let query = format!(
        "{{ patientByIdentifier(system: \"{}\", value: \"slowzq-mrn-0\") {{ id }} }}",
        crate::support::fhir_charts::SYSTEM
    );
    let superuser = site.superuser("cordon_data").await;
    superuser.batch_execute(&format!("set search_path = t_{}", tenant.id.0.simple())).await.unwrap();
    let token = site.token(&[tenant.id], "clinician", "alice");
    (tenant, token, query, superuser)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_tenant_settings_take_effect_within_a_second() {
    let site = Site::shared().await;
    let server = TestServer::of(site);
    let (tenant, token, query, superuser) = tenant_with_blockable_query(site).await;
    let set = async |change: SettingsChange| {
        settings::set(&site.operator, &tenant.slug, &change).await.unwrap();
        // The server reads changed settings within a second.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    assert_eq!(server.send_query(&token, &query, Value::Null).await.status, 200);
    set(SettingsChange { requests_per_second: Some(Number::Own(1)), ..SettingsChange::default() }).await;
    assert_eq!(server.send_query(&token, ME, Value::Null).await.status, 200);
    let seconds = retry_after(&server.send_query(&token, ME, Value::Null).await);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    assert_eq!(server.send_query(&token, ME, Value::Null).await.status, 200);

    set(SettingsChange {
        requests_per_second: Some(Number::Default),
        concurrency: Some(Number::Own(2)),
        ..SettingsChange::default()
    })
    .await;
    superuser.batch_execute("begin; lock table patients in access exclusive mode").await.unwrap();
    let people = ["bob", "carol"].map(|name| site.token(&[tenant.id], "clinician", name));
    let waiting = people.each_ref().map(|person| server.send_query(person, &query, Value::Null));
    let third = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let third = server.send_query(&token, ME, Value::Null).await;
        superuser.batch_execute("rollback").await.unwrap();
        third
    };
    let second_of_bob = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.send_query(&people[0], ME, Value::Null).await
    };
    let (served, third, second_of_bob) = futures_util::join!(join_all(waiting), third, second_of_bob);
    retry_after(&third);
    retry_after(&second_of_bob);
    assert!(served.iter().all(|response| response.status == 200), "{served:?}");
    assert_eq!(server.send_query(&token, ME, Value::Null).await.status, 200, "finished requests do not count");

    set(SettingsChange {
        statement_timeout_ms: Some(Number::Own(200)),
        concurrency: Some(Number::Default),
        ..SettingsChange::default()
    })
    .await;
    superuser.batch_execute("begin; lock table patients in access exclusive mode").await.unwrap();
    let started = Instant::now();
    let late = server.send_query(&token, &query, Value::Null).await;
    assert_eq!(late.status_and_code(), (504, "TIMEOUT".into()));
    assert!((200..1500).contains(&started.elapsed().as_millis()), "after {:?}", started.elapsed());
    superuser.batch_execute("rollback").await.unwrap();
    assert_eq!(server.send_query(&token, &query, Value::Null).await.status, 200);
}

/// One tenant gets at most half of the database permits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenant_does_not_get_all_database_permits() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    (settings.database.at_once, settings.database.connect_timeout_ms) = (4, 400);
    let app = App::new(settings, BootCheck::Dev).unwrap();
    let (noisy, quiet) = (site.tenant(TenancyModel::Schema).await, site.tenant(TenancyModel::Shared).await);
    for tenant in [&noisy, &quiet] {
        insert_patient(&app, tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();
    }
    let mut guards = Vec::new();
    for _ in 0..2 {
        let guard = admitted_guard(&app, noisy.id).await.unwrap();
        patient_names_in(&guard.read().await.unwrap()).await.unwrap();
        guards.push(guard);
    }
    let crowd = join_all((0..10).map(|_| patient_names(&app, noisy.id)));
    let neighbour = async {
        for _ in 0..20 {
            let started = Instant::now();
            assert_eq!(patient_names(&app, quiet.id).await.unwrap(), [quiet.slug.as_str()]);
            assert!(started.elapsed() < Duration::from_millis(300), "the neighbour waited {:?}", started.elapsed());
        }
    };
    let (crowd, ()) = futures_util::join!(crowd, neighbour);
    assert!(crowd.iter().all(|answer| *answer == Err(Error::Unavailable)), "a third permit beside two: {crowd:?}");
    // Released permits go to the waiting requests in order.
    let crowd = join_all((0..10).map(|_| patient_names(&app, noisy.id)));
    let release = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(guards);
    };
    let (crowd, ()) = futures_util::join!(crowd, release);
    assert!(crowd.iter().all(Result::is_ok), "{crowd:?}");
}

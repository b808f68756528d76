//! How often callers may come: a noisy tenant is told when to come again, and its neighbour notices nothing.

use crate::charts::Charts;
use crate::server::{Reply, Server};
use crate::site::{Site, admitted, names, plant, seen};
use crate::write::{DRAFT, Ward};
use cordon::app::App;
use cordon::config::{Admission, Settings};
use cordon::error::Error;
use cordon::isolation::BootCheck;
use cordon::ops::provision;
use cordon::ops::terms::{self, Change, Value as Number};
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

fn retry_after(reply: &Reply) -> u64 {
    assert_eq!(reply.outcome(), (429, "RATE_LIMITED".into()), "{reply:?}");
    assert!(reply.json().get("data").is_none());
    let seconds = reply.headers["retry-after"].parse().unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
    seconds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l32_a_noisy_tenant_is_told_and_its_neighbour_is_served() {
    let site = Site::shared().await;
    let (noisy, quiet) = (site.tenant(TenancyModel::Shared).await, site.tenant(TenancyModel::Shared).await);
    let server = Server::start(site, settings(site, 40, 16), BootCheck::Dev);
    let people: Vec<_> = (0..8).map(|n| site.token(&[noisy.id], "clinician", &format!("noisy-{n}"))).collect();
    let neighbour = site.token(&[quiet.id], "clinician", "alice");
    let began = Instant::now();
    // Far more at once than it has places, and fewer than a process may have open files.
    let flood = stream::iter((0..800).map(|n| server.reply(&people[n % people.len()], ME, Value::Null)));
    let flood = flood.buffer_unordered(200).collect::<Vec<_>>();
    let neighbours = async {
        let mut replies = Vec::new();
        for _ in 0..30 {
            replies.push(server.reply(&neighbour, ME, Value::Null).await);
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        replies
    };
    let (flood, neighbours) = futures_util::join!(flood, neighbours);
    let took = began.elapsed();
    assert!(neighbours.iter().all(|reply| reply.status == 200), "a neighbour was refused");
    let (served, told): (Vec<_>, Vec<_>) = flood.iter().partition(|reply| reply.status == 200);
    assert!(told.iter().all(|reply| retry_after(reply) >= 1));
    // A second's worth at once, and what comes in meanwhile.
    let most = 40.0 * (1.0 + took.as_secs_f64()) + 1.0;
    println!(
        "800 requests of a noisy tenant in {took:?}: {} served, {} told to come again; 30 of a neighbour: all served",
        served.len(),
        told.len()
    );
    assert!(
        served.len() >= 20 && served.len() as f64 <= most && told.len() > 400,
        "{} served in {took:?}",
        served.len()
    );
    // Whoever waits as long as told is served.
    tokio::time::sleep(Duration::from_secs(retry_after(told[0]))).await;
    assert_eq!(server.reply(&people[0], ME, Value::Null).await.status, 200);
}

/// What a refused client sent is read, so that it need not connect anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_keeps_the_connection() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let server = Server::start(site, settings(site, 2, 10), BootCheck::Dev);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let body = json!({ "query": format!("{ME}{}", " ".repeat(20_000)) }).to_string();
    let head = |token: &str, more: &str| {
        format!(
            "POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{more}\r\n{body}",
            body.len()
        )
    };
    let asks = [head(&token, ""), head("x.y.z", ""), head(&token, ""), head(&token, "connection: close\r\n")].concat();
    let all = server.raw(asks.as_bytes()).await;
    let statuses =
        [all.status.to_string()].into_iter().chain(all.body.split("HTTP/1.1 ").skip(1).map(|one| one[..3].to_owned()));
    assert_eq!(statuses.collect::<Vec<_>>(), ["200", "401", "429", "429"], "{all:?}");
}

/// An answer that nobody takes fills a place of its own person until the connection is given up.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_is_cut_off() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(TenancyModel::Shared).await).await;
    let input = json!({ "patientId": ward.patient, "type": "34117-2", "body": "x".repeat(450_000) });
    let drafted = ward.change(&ward.alice, DRAFT, input).await.unwrap();
    let note = &drafted["id"];
    let mut settings = settings(site, 1000, 4);
    settings.http.stalled_seconds = 1;
    let server = Server::start(site, settings, BootCheck::Dev);
    // More than the system keeps for a connection.
    let body = json!({ "query": format!("{{ {} }}", (0..25).map(|n| format!("a{n}: note(id: {note}) {{ body }} ")).collect::<String>()) });
    let body = body.to_string();
    let request = format!(
        "POST /graphql HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        ward.alice,
        body.len()
    );
    let mut stalled = Vec::new();
    for _ in 0..2 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let address = server.url.trim_start_matches("http://").trim_end_matches("/graphql");
        let mut socket = socket.connect(address.parse().unwrap()).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 15];
        socket.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        stalled.push(socket);
    }
    let began = Instant::now();
    assert_eq!(server.reply(&ward.alice, ME, Value::Null).await.status, 429, "two answers of hers are on their way");
    let other = site.token(&[ward.tenant.id], "clinician", "other");
    assert_eq!(server.reply(&other, ME, Value::Null).await.status, 200);
    while server.reply(&ward.alice, ME, Value::Null).await.status != 200 {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() > Duration::from_millis(500), "it was waited for them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_person_is_not_the_whole_tenant() {
    let site = Site::shared().await;
    let tenant = site.tenant(TenancyModel::Shared).await;
    let server = Server::start(site, settings(site, 20, 100), BootCheck::Dev);
    let (busy, other) = (site.token(&[tenant.id], "clinician", "busy"), site.token(&[tenant.id], "clinician", "other"));
    let replies = join_all((0..60).map(|_| server.reply(&busy, ME, Value::Null))).await;
    let last = replies.iter().find(|reply| reply.status != 200).expect("a refusal");
    assert!(replies.iter().any(|reply| reply.status == 200));
    assert_eq!(server.reply(&other, ME, Value::Null).await.status, 200, "refusals of one cost the tenant nothing");
    // Before what is in the body is looked at, and after it is known who sent it.
    let nonsense = Reply::to(server.post(&busy).header("content-type", "application/json").body("{{{"));
    let flood = join_all((0..20).map(|_| server.reply(&busy, ME, Value::Null)));
    let (nonsense, _) = futures_util::join!(nonsense, flood);
    assert!([400, 429].contains(&nonsense.status));
    assert_eq!(server.reply("x.y.z", ME, Value::Null).await.status, 401);
    tokio::time::sleep(Duration::from_secs(retry_after(last))).await;
    assert_eq!(server.reply(&busy, ME, Value::Null).await.status, 200);
    // A suspended tenant is suspended, however often it asks.
    provision::suspend(&site.operator, &tenant.slug).await.unwrap();
    let began = Instant::now();
    while server.reply(&other, ME, Value::Null).await.status != 403 {
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    let replies = join_all((0..60).map(|_| server.reply(&busy, ME, Value::Null))).await;
    assert!(replies.iter().all(|reply| reply.outcome() == (403, "TENANT_SUSPENDED".into())));
}

/// A tenant with a schema of its own and a chart in it, a question that reads it, and a way to make that question wait.
async fn charted(site: &Site) -> (Tenant, String, String, tokio_postgres::Client) {
    let tenant = site.tenant(TenancyModel::Schema).await;
    Charts { mark: "slowzq", patients: 1, encounters: 1, notes: 1 }.import(site, &tenant).await;
    let query =
        format!("{{ patientByIdentifier(system: \"{}\", value: \"slowzq-mrn-0\") {{ id }} }}", crate::charts::SYSTEM);
    let superuser = site.superuser("cordon_data").await;
    superuser.batch_execute(&format!("set search_path = t_{}", tenant.id.0.simple())).await.unwrap();
    let token = site.token(&[tenant.id], "clinician", "alice");
    (tenant, token, query, superuser)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_a_tenants_own_is_heard_at_once() {
    let site = Site::shared().await;
    let server = Server::of(site);
    let (tenant, token, query, superuser) = charted(site).await;
    let set = async |change: Change| {
        terms::set(&site.operator, &tenant.slug, &change).await.unwrap();
        // Heard within a second.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    assert_eq!(server.reply(&token, &query, Value::Null).await.status, 200);
    set(Change { requests_per_second: Some(Number::Own(1)), ..Change::default() }).await;
    assert_eq!(server.reply(&token, ME, Value::Null).await.status, 200);
    let seconds = retry_after(&server.reply(&token, ME, Value::Null).await);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    assert_eq!(server.reply(&token, ME, Value::Null).await.status, 200);

    set(Change { requests_per_second: Some(Number::Default), concurrency: Some(Number::Own(2)), ..Change::default() })
        .await;
    superuser.batch_execute("begin; lock table patients in access exclusive mode").await.unwrap();
    let people = ["bob", "carol"].map(|name| site.token(&[tenant.id], "clinician", name));
    let waiting = people.each_ref().map(|person| server.reply(person, &query, Value::Null));
    let third = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let third = server.reply(&token, ME, Value::Null).await;
        superuser.batch_execute("rollback").await.unwrap();
        third
    };
    let hers = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.reply(&people[0], ME, Value::Null).await
    };
    let (served, third, hers) = futures_util::join!(join_all(waiting), third, hers);
    retry_after(&third);
    retry_after(&hers);
    assert!(served.iter().all(|reply| reply.status == 200), "{served:?}");
    assert_eq!(server.reply(&token, ME, Value::Null).await.status, 200, "who has gone leaves room");

    set(Change {
        statement_timeout_ms: Some(Number::Own(200)),
        concurrency: Some(Number::Default),
        ..Change::default()
    })
    .await;
    superuser.batch_execute("begin; lock table patients in access exclusive mode").await.unwrap();
    let began = Instant::now();
    let late = server.reply(&token, &query, Value::Null).await;
    assert_eq!(late.outcome(), (504, "TIMEOUT".into()));
    assert!((200..1500).contains(&began.elapsed().as_millis()), "after {:?}", began.elapsed());
    superuser.batch_execute("rollback").await.unwrap();
    assert_eq!(server.reply(&token, &query, Value::Null).await.status, 200);
}

/// Turns are for all: a tenant that would take every one of them gets half.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tenant_has_all_turns() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    (settings.database.at_once, settings.database.connect_timeout_ms) = (4, 400);
    let app = App::new(settings, BootCheck::Dev).unwrap();
    let (noisy, quiet) = (site.tenant(TenancyModel::Schema).await, site.tenant(TenancyModel::Shared).await);
    for tenant in [&noisy, &quiet] {
        plant(&app, tenant.id, Uuid::now_v7(), &tenant.slug).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..2 {
        let guard = admitted(&app, noisy.id).await.unwrap();
        seen(&guard.read().await.unwrap()).await.unwrap();
        held.push(guard);
    }
    let crowd = join_all((0..10).map(|_| names(&app, noisy.id)));
    let neighbour = async {
        for _ in 0..20 {
            let began = Instant::now();
            assert_eq!(names(&app, quiet.id).await.unwrap(), [quiet.slug.as_str()]);
            assert!(began.elapsed() < Duration::from_millis(300), "a neighbour waited {:?}", began.elapsed());
        }
    };
    let (crowd, ()) = futures_util::join!(crowd, neighbour);
    assert!(crowd.iter().all(|answer| *answer == Err(Error::Unavailable)), "a third turn beside two: {crowd:?}");
    // What comes back is used by who waits, in turn.
    let crowd = join_all((0..10).map(|_| names(&app, noisy.id)));
    let gives_back = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(held);
    };
    let (crowd, ()) = futures_util::join!(crowd, gives_back);
    assert!(crowd.iter().all(Result::is_ok), "{crowd:?}");
}

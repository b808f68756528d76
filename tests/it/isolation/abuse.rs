//! Questions made to hurt: each is refused with its code, soon, and nobody else waits for it.

use super::world::World;
use crate::server::Reply;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Long enough for a debug build on a busy machine, far too short for any of these questions to have been run.
const SOON: Duration = Duration::from_secs(3);

/// For a neighbour's answer meanwhile.
const WAIT: Duration = Duration::from_millis(500);

#[tokio::test]
async fn l32_abuse_corpus() {
    let world = World::get().await;
    let (a, b) = (&world.mine[1], &world.others[1]);
    let server = &world.server;
    let me = "{ viewer { id } }";
    for (what, query, codes) in corpus() {
        let variables = if what == "variables" { many() } else { Value::Null };
        let mut waits = Vec::new();
        // Others use the machine too: once out of three times is proof enough.
        while waits.len() < 3 {
            let began = Instant::now();
            let (reply, neighbour) =
                futures_util::join!(server.reply(&a.token, &query, variables.clone()), timed(world, &b.token, me));
            waits.push((began.elapsed(), neighbour));
            let (status, code) = reply.outcome();
            assert!(
                codes.contains(&code.as_str()) && [400, 413].contains(&status),
                "{what}: {status} {code} {}",
                reply.body
            );
            assert!(
                reply.json().get("data").is_none() && reply.body.len() < 20_000,
                "{what}: {} bytes",
                reply.body.len()
            );
            assert!(!reply.says("did you mean"), "{what}: {reply:?}");
            if began.elapsed() < SOON && neighbour < WAIT {
                waits.clear();
                break;
            }
        }
        assert!(waits.is_empty(), "{what}: refused after, and a neighbour waited: {waits:?}");
    }
    // The same without asking for the newer media type: the refusal is an ordinary answer.
    let depth = &corpus()[0].1;
    let plain = server.http.post(&server.url).bearer_auth(&a.token).json(&json!({ "query": depth }));
    assert_eq!(Reply::to(plain).await.outcome(), (200, "LIMIT_EXCEEDED".into()));
}

/// Many at once by one tenant, and a body without an end.
#[tokio::test]
async fn l32_a_flood_leaves_the_neighbour_alone() {
    let world = World::get().await;
    let (a, b) = (&world.mine[0], &world.others[0]);
    let server = &world.server;
    let body = vec![b' '; 12 << 20];
    // Making and sending twelve megabytes costs this process more than the server, in a debug build.
    let patience = Duration::from_secs(2);
    let large = server.post(&a.token).header("content-type", "application/json").body(body.clone());
    let (sent, neighbour) = futures_util::join!(large.send(), timed(world, &b.token, "{ viewer { id } }"));
    // The server hangs up on whoever goes on sending; then there is no answer to read.
    assert!(sent.is_err() || sent.is_ok_and(|answer| answer.status().as_u16() == 413));
    assert!(neighbour < patience, "a neighbour waited {neighbour:?}");
    // Without a declared length, in chunks.
    let head = "POST /graphql HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\ncontent-type: application/json";
    let mut chunked = format!("{head}\r\nauthorization: Bearer {}\r\n\r\n", a.token).into_bytes();
    for chunk in body.chunks(1 << 16) {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    let (refused, neighbour) = futures_util::join!(server.raw(&chunked), timed(world, &b.token, "{ viewer { id } }"));
    assert!([413, 0].contains(&refused.status), "{refused:?}");
    assert!(neighbour < patience, "a neighbour waited {neighbour:?}");
    let bomb = &corpus()[6].1;
    let mut waits = Vec::new();
    while waits.len() < 3 {
        let flood = futures_util::future::join_all((0..40).map(|_| server.reply(&a.token, bomb, Value::Null)));
        let patient = async {
            let mut worst = Duration::ZERO;
            for _ in 0..10 {
                worst = worst.max(timed(world, &b.token, "{ viewer { id } }").await);
            }
            worst
        };
        let (refused, neighbour) = futures_util::join!(flood, patient);
        assert!(refused.iter().all(|reply| reply.code() == "LIMIT_EXCEEDED"));
        if neighbour < WAIT {
            return;
        }
        waits.push(neighbour);
    }
    panic!("a neighbour waited {waits:?}");
}

async fn timed(world: &World, token: &str, query: &str) -> Duration {
    let began = Instant::now();
    let reply = world.server.reply(token, query, Value::Null).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    began.elapsed()
}

fn many() -> Value {
    (0..5_000).map(|n| (format!("v{n}"), json!(n))).collect()
}

/// Name, question and the codes that may answer it.
fn corpus() -> Vec<(&'static str, String, &'static [&'static str])> {
    const LIMIT: &[&str] = &["LIMIT_EXCEEDED"];
    const INVALID: &[&str] = &["INVALID_INPUT"];
    let repeat = |n: usize, one: &dyn Fn(usize) -> String| (0..n).map(one).collect::<String>();
    let deep = |n: usize| {
        format!("{{ patient(id: \"x\") {} id {} }}", "{ notes { nodes { patient ".repeat(n), "} } }".repeat(n))
    };
    let fragments = |width: usize| {
        let bodies = repeat(9, &|n| {
            format!(
                "fragment F{n} on Patient {{ {} }} ",
                repeat(width, &|w| format!("x{n}{w}: encounters {{ nodes {{ patient {{ ...F{} }} }} }} ", n + 1))
            )
        });
        format!("{{ patient(id: \"x\") {{ ...F0 }} }} {bodies} fragment F9 on Patient {{ id }}")
    };
    vec![
        ("depth", deep(6).replace("patient  id", "patient { id }"), LIMIT),
        (
            "complexity",
            "{ patient(id: \"x\") { encounters(first: 200) { nodes { notes(first: 200) { nodes { id } } } } } }".into(),
            LIMIT,
        ),
        ("aliases", format!("{{ {} }}", repeat(200, &|n| format!("a{n}: viewer {{ id }} "))), LIMIT),
        ("repeats", format!("{{ {} }}", "viewer { id } ".repeat(200)), LIMIT),
        ("directives", format!("{{ __typename {} }}", "@skip(if: false) ".repeat(400)), LIMIT),
        ("directives nobody knows", format!("{{ viewer {{ id {} }} }}", "@a ".repeat(400)), LIMIT),
        ("fragment bomb", fragments(3), LIMIT),
        (
            "fragment circle",
            "{ viewer { ...A } } fragment A on Viewer { ...B } fragment B on Viewer { ...A }".into(),
            INVALID,
        ),
        ("fragment on itself", "{ viewer { ...A } } fragment A on Viewer { ...A }".into(), INVALID),
        ("tokens", format!("{{ {} }}", "a ".repeat(20_000)), LIMIT),
        ("brackets", "{".repeat(100_000), LIMIT),
        ("list in a list", format!("{{ patient(id: {}1{}) {{ id }} }}", "[".repeat(50_000), "]".repeat(50_000)), LIMIT),
        ("variables", format!("query ({}) {{ viewer {{ id }} }}", repeat(5_000, &|n| format!("$v{n}: Int "))), LIMIT),
        ("introspection", "{ __schema { types { name fields { name } } } }".into(), INVALID),
        ("introspection of a type", "{ t: __type(name: \"Patient\") { name } }".into(), INVALID),
        ("suggestions", "{ patien(id: \"x\") { i } }".into(), INVALID),
        ("suggested argument", "{ patient(idd: \"x\") { id } }".into(), INVALID),
        ("suggested type", "{ viewer { ...A } } fragment A on Viewr { id }".into(), INVALID),
        ("page", "{ patient(id: \"x\") { notes(first: 100000000000) { nodes { id } } } }".into(), INVALID),
        ("mutation", "mutation { signNote(input: {}) { note { id } } }".into(), INVALID),
        ("subscription", "subscription { noteChanged { id } }".into(), INVALID),
    ]
}

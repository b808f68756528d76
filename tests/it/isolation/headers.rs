//! The tenant comes from the token. Header and host name may choose among the token's or confirm; whatever else they say is the same
//! refusal, whether it names a neighbour, nobody, or one of PostgreSQL's own.

use super::world::World;
use crate::server::{Reply, Server};
use serde_json::{Value, json};
use uuid::Uuid;

const ME: &str = "{ viewer { tenant { slug } } }";

#[tokio::test]
async fn l21_tenant_names_fuzzed() {
    let world = World::get().await;
    let (a, b) = (&world.mine[1], &world.others[1]);
    let (id, slug) = (a.tenant.id.to_string(), a.tenant.slug.clone());
    let refused = with_header(&world.server, &b.token, b"nobody-at-all").await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "TENANT_MISMATCH"));
    let cyrillic = slug.replace('c', "\u{441}");
    let fullwidth = format!("\u{ff43}{}", &slug[1..]);
    let long = "a".repeat(10_000);
    let names: Vec<String> = [
        slug.as_str(),
        &id,
        &slug.to_uppercase(),
        &id.to_uppercase(),
        &id.replace('-', ""),
        &format!("{{{id}}}"),
        &format!("urn:uuid:{id}"),
        &format!("{slug}."),
        &format!("{slug},{}", b.tenant.slug),
        &format!("{};{slug}", b.tenant.slug),
        &format!("\"{slug}\""),
        "__system__",
        "public",
        "pg_catalog",
        "pg_temp",
        "default",
        "shared",
        "tenant",
        "cordon",
        "cordon_catalog",
        "*",
        "%",
        "null",
        "0",
        "-1",
        "..",
        "../lakeside",
        "' or ''='",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        &format!("t_{}", a.tenant.id.0.simple()),
        &Uuid::now_v7().to_string(),
        "x",
    ]
    .map(str::to_owned)
    .to_vec();
    for name in names {
        assert_eq!(with_header(&world.server, &b.token, name.as_bytes()).await, refused, "{name}");
        let reply = at_host(&world.server, &b.token, &name).await;
        if !name.contains([':', '{', '"', ' ', '\'', '%', ',', ';', '/']) {
            assert_eq!(reply, refused, "{name}");
        } else {
            // No host name at all, or one that ends before the domain begins: refused by the HTTP parser, or no hint.
            let own = reply.status == 200 && reply.json()["data"]["viewer"]["tenant"]["slug"] == b.tenant.slug.as_str();
            assert!(own || reply == refused || (reply.status == 400 && reply.body.is_empty()), "{name}: {reply:?}");
        }
    }
    // One that is there and says nothing, and one that is too long to be a name.
    assert_eq!(with_header(&world.server, &b.token, b"").await, refused);
    assert_eq!(with_header(&world.server, &b.token, long.as_bytes()).await, refused);
    // What is no text at all is refused as such, before anyone looks whom it could mean.
    for name in [cyrillic.as_bytes(), fullwidth.as_bytes(), b"\xff\xfe"] {
        let reply = with_header(&world.server, &b.token, name).await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "INVALID_INPUT"), "{reply:?}");
        assert!(!reply.says(&a.mark));
    }
    let nul = with_header(&world.server, &b.token, b"cli\0nic").await;
    assert!(nul.status == 400 && nul.body.is_empty(), "the HTTP parser refuses it: {nul:?}");
}

#[tokio::test]
async fn l22_token_over_header() {
    let world = World::get().await;
    let server = &world.server;
    for (a, b) in world.pairs() {
        let refused = with_header(server, &b.token, Uuid::now_v7().to_string().as_bytes()).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "TENANT_MISMATCH"));
        let theirs = [a.tenant.id.to_string(), a.tenant.slug.clone()];
        let own = [b.tenant.id.to_string(), b.tenant.slug.clone()];
        for name in &theirs {
            assert_eq!(with_header(server, &b.token, name.as_bytes()).await, refused);
            for confirmed in &own {
                assert_eq!(with_both(server, &b.token, name, confirmed).await, refused);
                assert_eq!(with_both(server, &b.token, confirmed, name).await, refused);
            }
        }
        for name in &own {
            assert_eq!(with_both(server, &b.token, name, &b.tenant.slug).await.status, 200);
        }
        // Twice is refused, whoever is named first.
        for (first, second) in
            [(&theirs[0], &own[0]), (&own[0], &theirs[0]), (&own[1], &own[1]), (&theirs[1], &theirs[1])]
        {
            let twice =
                server.question(&b.token, ME, Value::Null).header("x-tenant-id", first).header("x-tenant-id", second);
            assert_eq!(Reply::to(twice).await.outcome(), (400, "INVALID_INPUT".into()), "{first} {second}");
        }
        // Forwarded names are nobody's word.
        let forwarded = server
            .question(&b.token, ME, Value::Null)
            .header("x-forwarded-host", format!("{}.notes.test", a.tenant.slug));
        assert_eq!(Reply::to(forwarded).await.json()["data"]["viewer"]["tenant"]["slug"], b.tenant.slug.as_str());
        // Several in the token: nothing is guessed, each is chosen by name, and no third one.
        let both = server.site.token(&[a.tenant.id, b.tenant.id], "clinician", "alice");
        assert_eq!(server.reply(&both, ME, Value::Null).await.outcome(), (403, "TENANT_MISMATCH".into()));
        for name in theirs.iter().chain(&own) {
            let reply = Reply::to(server.question(&both, ME, Value::Null).header("x-tenant-id", name)).await;
            let chosen = if theirs.contains(name) { &a.tenant.slug } else { &b.tenant.slug };
            assert_eq!(reply.json()["data"]["viewer"]["tenant"]["slug"], chosen.as_str());
        }
        assert_eq!(with_both(server, &both, &a.tenant.slug, &b.tenant.slug).await.status, 403);
        assert_eq!(with_header(server, &both, world.suspended.slug.as_bytes()).await, refused);
    }
    // No other way in: every path and method with a neighbour's name.
    let (a, b) = (&world.mine[0], &world.others[0]);
    let base = server.url.trim_end_matches("/graphql");
    for path in [
        "/graphql",
        "/graphql/",
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/platform",
        &format!("/{}/graphql", a.tenant.slug),
    ] {
        for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "POST"] {
            // Health is anyone's to ask, and nobody's in particular.
            let health = method == "GET" && ["/healthz", "/readyz"].contains(&path);
            let method = method.parse().unwrap();
            let request = server
                .http
                .request(method, format!("{base}{path}"))
                .bearer_auth(&b.token)
                .header("x-tenant-id", &a.tenant.slug);
            let reply = Reply::to(request.json(&json!({ "query": "{ patient(id: \"x\") { id } }" }))).await;
            assert!(
                (health && reply.status == 200 || matches!(reply.status, 403..=405))
                    && !reply.says(&a.mark)
                    && !reply.says(&a.tenant.slug),
                "{path}: {reply:?}"
            );
        }
    }
}

/// What was told, apart from how the connection ends.
async fn raw(server: &Server<'_>, head: &[&[u8]], token: &str) -> Reply {
    let body = json!({ "query": ME }).to_string();
    let mut request = b"POST /graphql HTTP/1.1\r\n".to_vec();
    head.iter().for_each(|line| request.extend_from_slice(line));
    let rest = format!(
        "authorization: Bearer {token}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    request.extend_from_slice(rest.as_bytes());
    let mut reply = server.raw(&request).await;
    reply.headers.remove("date");
    reply.headers.remove("x-request-id");
    reply
}

async fn with_header(server: &Server<'_>, token: &str, name: &[u8]) -> Reply {
    raw(server, &[b"host: localhost\r\nx-tenant-id: ", name, b"\r\n"], token).await
}

async fn at_host(server: &Server<'_>, token: &str, name: &str) -> Reply {
    raw(server, &[format!("host: {name}.notes.test\r\n").as_bytes()], token).await
}

async fn with_both(server: &Server<'_>, token: &str, header: &str, subdomain: &str) -> Reply {
    raw(server, &[format!("host: {subdomain}.notes.test\r\nx-tenant-id: {header}\r\n").as_bytes()], token).await
}

//! Notes over HTTP: drafting, revising, discarding and signing, who may do it, and what a signature covers.

use crate::support::chart_writer::{ChartWriter, DISCARD, DRAFT, REVISE, SIGN, START, global_id};
use crate::support::site::{MODELS, Site};
use cordon::crypto::Sealed;
use cordon::ids::{NoteId, PatientId, StaffId};
use cordon::model::fields::SignatureSalt;
use cordon::model::signature::{Content, Meaning, Signing, verify};
use serde_json::{Value, json};
use uuid::Uuid;

const NOTE: &str = "query ($id: ID!) { note(id: $id) { id status version body } }";

async fn read_note(writer: &ChartWriter<'_>, token: &str, id: &Value) -> Value {
    writer.server.data(token, NOTE, json!({ "id": id })).await["note"].take()
}

#[tokio::test]
async fn a_draft_is_signed_and_then_immutable() {
    let site = Site::shared().await;
    for model in MODELS {
        let writer = ChartWriter::create(site, site.tenant(model).await).await;
        let (bob, id) = (writer.token("clinician", "bob"), writer.draft_note().await["id"].clone());
        assert_eq!(read_note(&writer, &bob, &id).await, Value::Null, "a draft is visible to its author only");
        for (mutation, part) in [(REVISE, json!({ "body": "mine" })), (DISCARD, json!({})), (SIGN, json!({}))] {
            let mut input = json!({ "id": id, "expectedVersion": 1 });
            input.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            assert_eq!(
                writer.mutate(&bob, mutation, input).await.unwrap_err().0,
                "NOT_FOUND",
                "{model}: a draft of another author"
            );
        }
        let revised = json!({ "id": id, "expectedVersion": 1, "title": null });
        let revised = writer.mutate(&writer.alice, REVISE, revised).await.unwrap();
        assert_eq!(
            (&revised["title"], &revised["body"], &revised["version"]),
            (&Value::Null, &json!("Stable."), &json!(2))
        );
        let stale = writer.mutate(&writer.alice, SIGN, json!({ "id": id, "expectedVersion": 1 })).await.unwrap_err();
        assert_eq!(stale.1["currentVersion"], 2);
        let signed = writer.mutate(&writer.alice, SIGN, json!({ "id": id, "expectedVersion": 2 })).await.unwrap();
        assert_eq!((&signed["status"], &signed["version"]), (&json!("SIGNED"), &json!(3)));
        assert_eq!(signed["signatures"][0]["meaning"], "AUTHOR");
        assert_eq!(signed["signatures"][0]["signer"]["name"], "Dr. alice");
        assert_eq!(signed["signatures"][0]["signedAt"], signed["signedAt"]);
        assert_eq!(read_note(&writer, &bob, &id).await["body"], "Stable.");
        for (mutation, part) in [(REVISE, json!({ "body": "mine" })), (DISCARD, json!({})), (SIGN, json!({}))] {
            let mut input = json!({ "id": id, "expectedVersion": 3 });
            input.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            assert_eq!(
                writer.mutate(&writer.alice, mutation, input).await.unwrap_err().0,
                "CONFLICT",
                "{model}: the note is signed"
            );
        }
    }
}

#[tokio::test]
async fn a_discarded_draft_is_kept_and_hidden() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[1]).await).await;
    let id = writer.draft_note().await["id"].clone();
    let discarded = writer.mutate(&writer.alice, DISCARD, json!({ "id": id, "expectedVersion": 1 })).await.unwrap();
    assert_eq!(discarded, id);
    assert_eq!(read_note(&writer, &writer.alice, &id).await, Value::Null);
    let list = "query ($id: ID!) { patient(id: $id) { notes { edges { node { id } } } } }";
    let list = writer.server.data(&writer.alice, list, json!({ "id": writer.patient })).await;
    assert_eq!(list["patient"]["notes"]["edges"], json!([]));
    assert_eq!(
        writer.mutate(&writer.alice, SIGN, json!({ "id": id, "expectedVersion": 2 })).await.unwrap_err().0,
        "NOT_FOUND"
    );
    assert_eq!(writer.rows("select from note_versions where tenant_id = $tenant").await.len(), 1);
}

#[tokio::test]
async fn roles_limit_who_drafts_and_signs() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[1]).await).await;
    let input = |kind: &str, author: Value| {
        json!({ "patientId": writer.patient, "type": kind, "body": "b",
        "authorId": author })
    };
    let (nurse, trainee, scribe) =
        (writer.token("nurse", "nora"), writer.token("trainee", "tom"), writer.token("scribe", "sam"));
    let sign = async |token: &str, note: &Value| {
        writer.mutate(token, SIGN, json!({ "id": note["id"], "expectedVersion": 1 })).await
    };

    assert_eq!(writer.mutate(&nurse, DRAFT, input("34117-2", Value::Null)).await.unwrap_err().0, "FORBIDDEN");
    let note = writer.mutate(&nurse, DRAFT, input("34746-8", Value::Null)).await.unwrap();
    assert_eq!(sign(&nurse, &note).await.unwrap()["status"], "SIGNED");

    let note = writer.mutate(&trainee, DRAFT, input("34117-2", Value::Null)).await.unwrap();
    assert_eq!(sign(&trainee, &note).await.unwrap()["status"], "UNCOSIGNED");

    let alice = writer.server.data(&writer.alice, "{ viewer { id } }", json!({})).await["viewer"]["id"].take();
    assert_eq!(
        writer.mutate(&scribe, DRAFT, input("34117-2", Value::Null)).await.unwrap_err().0,
        "FORBIDDEN",
        "a scribe drafts for a named author only"
    );
    let note = writer.mutate(&scribe, DRAFT, input("34117-2", alice.clone())).await.unwrap();
    assert_eq!(note["author"]["id"], alice);
    assert_eq!(read_note(&writer, &scribe, &note["id"]).await["body"], "b", "the scribe who typed the draft sees it");
    assert_eq!(read_note(&writer, &nurse, &note["id"]).await, Value::Null);
    assert_eq!(sign(&scribe, &note).await.unwrap_err().0, "FORBIDDEN");
    assert_eq!(
        sign(&writer.token("clinician", "sam"), &note).await.unwrap_err().0,
        "FORBIDDEN",
        "not with another role either, because another person is the author"
    );
    assert_eq!(sign(&writer.alice, &note).await.unwrap()["signatures"][0]["meaning"], "AUTHOR");
    assert_eq!(
        writer
            .mutate(&writer.alice, DRAFT, input("34117-2", json!(global_id(b's', Uuid::now_v7()))))
            .await
            .unwrap_err()
            .0,
        "FORBIDDEN"
    );
    let nobody = input("34117-2", json!(global_id(b's', Uuid::now_v7())));
    assert_eq!(writer.mutate(&scribe, DRAFT, nobody).await.unwrap_err().0, "NOT_FOUND");
}

#[tokio::test]
async fn named_signers_see_and_sign_a_draft() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[2]).await).await;
    let bob = writer.token("clinician", "bob");
    writer.mutate(&bob, START, json!({ "patientId": writer.patient, "class": "AMB" })).await.unwrap();
    let id = writer.server.data(&bob, "{ viewer { id } }", json!({})).await["viewer"]["id"].take();
    let input = json!({ "patientId": writer.patient, "type": "34117-2", "body": "b", "signerIds": [id] });
    let note = writer.mutate(&writer.token("trainee", "tom"), DRAFT, input).await.unwrap();
    assert_eq!(read_note(&writer, &bob, &note["id"]).await["body"], "b");
    // A signer may not discard the draft, and a nurse who is named as signer may not revise a physician's note.
    assert_eq!(
        writer.mutate(&bob, DISCARD, json!({ "id": note["id"], "expectedVersion": 1 })).await.unwrap_err().0,
        "FORBIDDEN"
    );
    let nurse = writer.token("nurse", "bob");
    let over = json!({ "id": note["id"], "expectedVersion": 1, "body": "written over" });
    assert_eq!(writer.mutate(&nurse, REVISE, over).await.unwrap_err().0, "FORBIDDEN");
    let denied = writer
        .rows(
            "select action from audit_log where tenant_id = $tenant and outcome = 'denied' and \
            array_length(resource_ids, 1) = 1",
        )
        .await;
    let denied: Vec<String> = denied.iter().map(|row| row.get(0)).collect();
    assert_eq!(denied, ["note.discarded", "note.revised"], "the audit rows of denied mutations name the note");
    let signed = writer.mutate(&bob, SIGN, json!({ "id": note["id"], "expectedVersion": 1 })).await.unwrap();
    assert_eq!((&signed["status"], &signed["signatures"][0]["meaning"]), (&json!("SIGNED"), &json!("SIGNER")));
}

#[tokio::test]
async fn invalid_notes_are_rejected() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[0]).await).await;
    let other = ChartWriter::create(site, site.tenant(MODELS[0]).await).await;
    let foreign_encounter =
        other.mutate(&other.alice, START, json!({ "patientId": other.patient, "class": "AMB" })).await.unwrap();
    let with = |part: Value| {
        let mut input = json!({ "patientId": writer.patient, "type": "34117-2", "body": "b" });
        input.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        input
    };
    for (part, field) in [
        (json!({ "type": "00000-0" }), "input.type"),
        (json!({ "type": "" }), "input.type"),
        (json!({ "title": "t".repeat(501) }), "input.title"),
        (json!({ "title": "a\nb" }), "input.title"),
        (json!({ "body": " \n " }), "input.body"),
        (json!({ "body": "a\u{7}" }), "input.body"),
        (json!({ "body": "b".repeat(500_001) }), "input.body"),
        (json!({ "encounterId": writer.patient }), "input.encounterId"),
        (json!({ "signerIds": [writer.patient] }), "input.signerIds"),
    ] {
        let refused = writer.mutate(&writer.alice, DRAFT, with(part)).await.unwrap_err();
        assert_eq!(refused, ("INVALID_INPUT".into(), json!({ "code": "INVALID_INPUT", "field": field })));
    }
    for part in [
        json!({ "encounterId": foreign_encounter["id"] }),
        json!({ "patientId": other.patient }),
        json!({ "signerIds": [global_id(b's', Uuid::now_v7())] }),
    ] {
        assert_eq!(writer.mutate(&writer.alice, DRAFT, with(part)).await.unwrap_err().0, "NOT_FOUND");
    }
    assert_eq!(writer.rows("select from clinical_notes where tenant_id = $tenant").await.len(), 0);
}

/// The stored signature is valid for the stored content and for no other content.
#[tokio::test]
async fn a_signature_covers_the_signed_content() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[2]).await).await;
    let note = writer.draft_note().await;
    writer.mutate(&writer.alice, SIGN, json!({ "id": note["id"], "expectedVersion": 1 })).await.unwrap();
    let rows = writer
        .rows(
            "select s.id::text, s.salt_sealed, s.hash, s.signature, s.signer_id::text, (extract(epoch from \
             s.signed_at) * 1000000)::bigint,
                 s.verify_key, n.id::text, n.patient_id::text, (extract(epoch from n.authored_at) * 1000000)::bigint, \
                 n.author_id::text
             from note_signatures s join clinical_notes n on n.id = s.note_id where s.tenant_id = $tenant",
        )
        .await;
    let row = &rows[0];
    let id = |column: usize| row.get::<_, &str>(column).parse::<Uuid>().unwrap();
    let at = |column: usize| chrono::DateTime::from_timestamp_micros(row.get(column)).unwrap();
    let keys = writer.server.app.keys.tenant(writer.tenant.id).await.unwrap();
    let salt = keys.open(id(0), &Sealed::<SignatureSalt>::from_bytes(row.get(1))).unwrap();
    let salt: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&salt[2 * at..2 * at + 2], 16).unwrap()).collect();
    let content = Content {
        tenant: writer.tenant.id,
        note: NoteId(id(7)),
        number: 1,
        patient: PatientId(id(8)),
        encounter: None,
        kind: "34117-2",
        authored_at: at(9),
        author: Some(StaffId(id(10))),
        title: Some("First"),
        body: "Stable.",
    };
    let signing = Signing { signer: StaffId(id(4)), meaning: Meaning::Author, at: at(5) };
    let is_valid = |content: &Content<'_>, signing| verify(&keys, content, signing, &salt, row.get(2), row.get(3));
    assert!(is_valid(&content, signing));
    assert_eq!(row.get::<_, Vec<u8>>(6), keys.verify_key());
    assert!(!is_valid(&Content { body: "Stable!", ..content.clone() }, signing));
    assert!(!is_valid(&Content { title: None, ..content.clone() }, signing));
    assert!(!is_valid(&Content { number: 2, ..content.clone() }, signing));
    assert!(!is_valid(&Content { patient: PatientId::new(), ..content.clone() }, signing));
    assert!(!is_valid(&content, Signing { meaning: Meaning::Signer, ..signing }));
    assert!(!is_valid(&content, Signing { signer: StaffId::new(), ..signing }));
}

#[tokio::test]
async fn notes_are_filtered_for_work_lists() {
    let site = Site::shared().await;
    for model in MODELS {
        let writer = ChartWriter::create(site, site.tenant(model).await).await;
        let (bob, tom) = (writer.token("clinician", "bob"), writer.token("trainee", "tom"));
        let encounter =
            writer.mutate(&bob, START, json!({ "patientId": writer.patient, "class": "AMB" })).await.unwrap();
        let id =
            async |token: &str| writer.server.data(token, "{ viewer { id } }", json!({})).await["viewer"]["id"].take();
        let write = async |token: &str, kind: &str, body: &str, more: Value| {
            let mut input = json!({ "patientId": writer.patient, "type": kind, "body": body });
            input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            writer.mutate(token, DRAFT, input).await.unwrap()
        };
        let sign = async |token: &str, note: &Value| {
            writer.mutate(token, SIGN, json!({ "id": note["id"], "expectedVersion": note["version"] })).await.unwrap();
        };
        write(&writer.alice, "11506-3", "a", json!({})).await;
        sign(&writer.alice, &write(&writer.alice, "34117-2", "b", json!({ "encounterId": encounter["id"] })).await)
            .await;
        write(&tom, "34117-2", "c", json!({ "signerIds": [id(&bob).await] })).await;
        sign(&tom, &write(&tom, "11506-3", "d", json!({ "signerIds": [id(&bob).await] })).await).await;
        let list = async |token: &str, filter: Value| {
            let query = "query ($filter: NoteFilter) { notes(filter: $filter) { edges { node { body } } } }";
            let data = writer.server.data(token, query, json!({ "filter": filter })).await;
            data["notes"]["edges"]
                .as_array()
                .unwrap()
                .iter()
                .map(|edge| edge["node"]["body"].as_str().unwrap().to_owned())
                .collect::<String>()
        };
        let (alices, toms) = (id(&writer.alice).await, id(&tom).await);
        for (token, filter, expected) in [
            (&writer.alice, Value::Null, "dba"),
            (&bob, Value::Null, "dcb"),
            (&tom, Value::Null, "dcb"),
            (&writer.alice, json!({ "mine": true }), "ba"),
            (&writer.alice, json!({ "mine": false }), "dba"),
            (&writer.alice, json!({ "awaitingMySignature": true }), "a"),
            (&bob, json!({ "awaitingMySignature": true }), "dc"),
            (&bob, json!({ "awaitingMySignature": true, "mine": true }), ""),
            (&tom, json!({ "awaitingMySignature": true }), "c"),
            (&bob, json!({ "authorId": toms }), "dc"),
            (&bob, json!({ "authorId": alices, "status": ["DRAFT"] }), ""),
            (&bob, json!({ "type": ["34117-2"], "status": ["SIGNED", "DRAFT"] }), "cb"),
            (&bob, json!({ "encounterId": encounter["id"] }), "b"),
            (&bob, json!({ "patientId": global_id(b'p', Uuid::now_v7()) }), ""),
            (&bob, json!({ "from": "2999-01-01T00:00:00Z" }), ""),
            (&bob, json!({ "to": "2000-01-01T00:00:00Z" }), ""),
        ] {
            assert_eq!(list(token, filter.clone()).await, expected, "{model}: {filter}");
        }
        let many = json!({ "filter": { "type": vec!["x"; 51] } });
        let refused = writer
            .server
            .query(&bob, "query ($filter: NoteFilter) { notes(filter: $filter) { edges { node { id } } } }", many)
            .await
            .1;
        assert_eq!(refused["errors"][0]["extensions"], json!({ "code": "INVALID_INPUT", "field": "filter.type" }));
    }
}

#[tokio::test]
async fn the_size_of_a_response_is_limited() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[1]).await).await;
    let mut settings = site.server_settings();
    settings.limits.answer_bytes = 10_000;
    let server = crate::support::server::TestServer::start(site, settings, cordon::isolation::BootCheck::Dev);
    for _ in 0..3 {
        let input = json!({ "patientId": writer.patient, "type": "34117-2", "body": "x".repeat(4_000) });
        writer.mutate(&writer.alice, DRAFT, input).await.unwrap();
    }
    let (status, body) = server.query(&writer.alice, "{ notes { edges { node { id body } } } }", json!({})).await;
    let edges = body["data"]["notes"]["edges"].as_array().unwrap();
    assert_eq!((status, edges.iter().filter(|edge| edge["node"]["body"].is_string()).count()), (200, 2), "{status}");
    assert_eq!(body["errors"][0]["extensions"]["code"], "LIMIT_EXCEEDED");
}

//! Notes: drafted, revised, discarded and signed over HTTP; whose they are, and that a signature holds.

use crate::site::{MODELS, Site};
use crate::write::{DISCARD, DRAFT, REVISE, SIGN, START, Ward, opaque};
use cordon::crypto::Sealed;
use cordon::ids::{NoteId, PatientId, StaffId};
use cordon::model::fields::SignatureSalt;
use cordon::model::signature::{Content, Meaning, Signing, verify};
use serde_json::{Value, json};
use uuid::Uuid;

const NOTE: &str = "query ($id: ID!) { note(id: $id) { id status version body } }";

async fn seen(ward: &Ward<'_>, token: &str, id: &Value) -> Value {
    ward.server.data(token, NOTE, json!({ "id": id })).await["note"].take()
}

#[tokio::test]
async fn a_draft_becomes_a_signed_note_that_nobody_changes() {
    let site = Site::shared().await;
    for model in MODELS {
        let ward = Ward::open(site, site.tenant(model).await).await;
        let (bob, id) = (ward.token("clinician", "bob"), ward.draft().await["id"].clone());
        assert_eq!(seen(&ward, &bob, &id).await, Value::Null, "a draft is its author's");
        for (mutation, part) in [(REVISE, json!({ "body": "mine" })), (DISCARD, json!({})), (SIGN, json!({}))] {
            let mut input = json!({ "id": id, "expectedVersion": 1 });
            input.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            assert_eq!(
                ward.change(&bob, mutation, input).await.unwrap_err().0,
                "NOT_FOUND",
                "{model}: someone else's draft"
            );
        }
        let revised = json!({ "id": id, "expectedVersion": 1, "title": null });
        let revised = ward.change(&ward.alice, REVISE, revised).await.unwrap();
        assert_eq!(
            (&revised["title"], &revised["body"], &revised["version"]),
            (&Value::Null, &json!("Stable."), &json!(2))
        );
        let stale = ward.change(&ward.alice, SIGN, json!({ "id": id, "expectedVersion": 1 })).await.unwrap_err();
        assert_eq!(stale.1["currentVersion"], 2);
        let signed = ward.change(&ward.alice, SIGN, json!({ "id": id, "expectedVersion": 2 })).await.unwrap();
        assert_eq!((&signed["status"], &signed["version"]), (&json!("SIGNED"), &json!(3)));
        assert_eq!(signed["signatures"][0]["meaning"], "AUTHOR");
        assert_eq!(signed["signatures"][0]["signer"]["name"], "Dr. alice");
        assert_eq!(signed["signatures"][0]["signedAt"], signed["signedAt"]);
        assert_eq!(seen(&ward, &bob, &id).await["body"], "Stable.");
        for (mutation, part) in [(REVISE, json!({ "body": "mine" })), (DISCARD, json!({})), (SIGN, json!({}))] {
            let mut input = json!({ "id": id, "expectedVersion": 3 });
            input.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            assert_eq!(
                ward.change(&ward.alice, mutation, input).await.unwrap_err().0,
                "CONFLICT",
                "{model}: it is signed"
            );
        }
    }
}

#[tokio::test]
async fn a_discarded_draft_is_kept_and_seen_by_nobody() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[1]).await).await;
    let id = ward.draft().await["id"].clone();
    let gone = ward.change(&ward.alice, DISCARD, json!({ "id": id, "expectedVersion": 1 })).await.unwrap();
    assert_eq!(gone, id);
    assert_eq!(seen(&ward, &ward.alice, &id).await, Value::Null);
    let list = "query ($id: ID!) { patient(id: $id) { notes { edges { node { id } } } } }";
    let list = ward.server.data(&ward.alice, list, json!({ "id": ward.patient })).await;
    assert_eq!(list["patient"]["notes"]["edges"], json!([]));
    assert_eq!(
        ward.change(&ward.alice, SIGN, json!({ "id": id, "expectedVersion": 2 })).await.unwrap_err().0,
        "NOT_FOUND"
    );
    assert_eq!(ward.rows("select from note_versions where tenant_id = $tenant").await.len(), 1);
}

#[tokio::test]
async fn roles_write_what_is_theirs() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[1]).await).await;
    let input =
        |kind: &str, author: Value| json!({ "patientId": ward.patient, "type": kind, "body": "b", "authorId": author });
    let (nurse, trainee, scribe) =
        (ward.token("nurse", "nora"), ward.token("trainee", "tom"), ward.token("scribe", "sam"));
    let sign = async |token: &str, note: &Value| {
        ward.change(token, SIGN, json!({ "id": note["id"], "expectedVersion": 1 })).await
    };

    assert_eq!(ward.change(&nurse, DRAFT, input("34117-2", Value::Null)).await.unwrap_err().0, "FORBIDDEN");
    let note = ward.change(&nurse, DRAFT, input("34746-8", Value::Null)).await.unwrap();
    assert_eq!(sign(&nurse, &note).await.unwrap()["status"], "SIGNED");

    let note = ward.change(&trainee, DRAFT, input("34117-2", Value::Null)).await.unwrap();
    assert_eq!(sign(&trainee, &note).await.unwrap()["status"], "UNCOSIGNED");

    let alice = ward.server.data(&ward.alice, "{ viewer { id } }", json!({})).await["viewer"]["id"].take();
    assert_eq!(
        ward.change(&scribe, DRAFT, input("34117-2", Value::Null)).await.unwrap_err().0,
        "FORBIDDEN",
        "a scribe writes for someone"
    );
    let note = ward.change(&scribe, DRAFT, input("34117-2", alice.clone())).await.unwrap();
    assert_eq!(note["author"]["id"], alice);
    assert_eq!(seen(&ward, &scribe, &note["id"]).await["body"], "b", "who typed it sees it");
    assert_eq!(seen(&ward, &nurse, &note["id"]).await, Value::Null);
    assert_eq!(sign(&scribe, &note).await.unwrap_err().0, "FORBIDDEN");
    assert_eq!(
        sign(&ward.token("clinician", "sam"), &note).await.unwrap_err().0,
        "FORBIDDEN",
        "nor with another role: it is not theirs"
    );
    assert_eq!(sign(&ward.alice, &note).await.unwrap()["signatures"][0]["meaning"], "AUTHOR");
    assert_eq!(
        ward.change(&ward.alice, DRAFT, input("34117-2", json!(opaque(b's', Uuid::now_v7())))).await.unwrap_err().0,
        "FORBIDDEN"
    );
    let nobody = input("34117-2", json!(opaque(b's', Uuid::now_v7())));
    assert_eq!(ward.change(&scribe, DRAFT, nobody).await.unwrap_err().0, "NOT_FOUND");
}

#[tokio::test]
async fn who_is_named_sees_and_signs_a_draft() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[2]).await).await;
    let bob = ward.token("clinician", "bob");
    ward.change(&bob, START, json!({ "patientId": ward.patient, "class": "AMB" })).await.unwrap();
    let id = ward.server.data(&bob, "{ viewer { id } }", json!({})).await["viewer"]["id"].take();
    let input = json!({ "patientId": ward.patient, "type": "34117-2", "body": "b", "signerIds": [id] });
    let note = ward.change(&ward.token("trainee", "tom"), DRAFT, input).await.unwrap();
    assert_eq!(seen(&ward, &bob, &note["id"]).await["body"], "b");
    // To sign is not to give up, and a nurse named on a physician's note does not write in it.
    assert_eq!(
        ward.change(&bob, DISCARD, json!({ "id": note["id"], "expectedVersion": 1 })).await.unwrap_err().0,
        "FORBIDDEN"
    );
    let nurse = ward.token("nurse", "bob");
    let over = json!({ "id": note["id"], "expectedVersion": 1, "body": "written over" });
    assert_eq!(ward.change(&nurse, REVISE, over).await.unwrap_err().0, "FORBIDDEN");
    let denied = ward
        .rows("select action from audit_log where tenant_id = $tenant and outcome = 'denied' and array_length(resource_ids, 1) = 1")
        .await;
    let denied: Vec<String> = denied.iter().map(|row| row.get(0)).collect();
    assert_eq!(denied, ["note.discarded", "note.revised"], "what was refused names the note");
    let signed = ward.change(&bob, SIGN, json!({ "id": note["id"], "expectedVersion": 1 })).await.unwrap();
    assert_eq!((&signed["status"], &signed["signatures"][0]["meaning"]), (&json!("SIGNED"), &json!("SIGNER")));
}

#[tokio::test]
async fn what_is_no_note_is_refused() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[0]).await).await;
    let other = Ward::open(site, site.tenant(MODELS[0]).await).await;
    let theirs =
        other.change(&other.alice, START, json!({ "patientId": other.patient, "class": "AMB" })).await.unwrap();
    let with = |part: Value| {
        let mut input = json!({ "patientId": ward.patient, "type": "34117-2", "body": "b" });
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
        (json!({ "encounterId": ward.patient }), "input.encounterId"),
        (json!({ "signerIds": [ward.patient] }), "input.signerIds"),
    ] {
        let refused = ward.change(&ward.alice, DRAFT, with(part)).await.unwrap_err();
        assert_eq!(refused, ("INVALID_INPUT".into(), json!({ "code": "INVALID_INPUT", "field": field })));
    }
    for part in [
        json!({ "encounterId": theirs["id"] }),
        json!({ "patientId": other.patient }),
        json!({ "signerIds": [opaque(b's', Uuid::now_v7())] }),
    ] {
        assert_eq!(ward.change(&ward.alice, DRAFT, with(part)).await.unwrap_err().0, "NOT_FOUND");
    }
    assert_eq!(ward.rows("select from clinical_notes where tenant_id = $tenant").await.len(), 0);
}

/// The stored signature is of the stored text, and of no other.
#[tokio::test]
async fn a_signature_holds_what_was_signed() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[2]).await).await;
    let note = ward.draft().await;
    ward.change(&ward.alice, SIGN, json!({ "id": note["id"], "expectedVersion": 1 })).await.unwrap();
    let rows = ward
        .rows(
            "select s.id::text, s.salt_sealed, s.hash, s.signature, s.signer_id::text, (extract(epoch from s.signed_at) * 1000000)::bigint,
                 s.verify_key, n.id::text, n.patient_id::text, (extract(epoch from n.authored_at) * 1000000)::bigint, n.author_id::text
             from note_signatures s join clinical_notes n on n.id = s.note_id where s.tenant_id = $tenant",
        )
        .await;
    let row = &rows[0];
    let id = |column: usize| row.get::<_, &str>(column).parse::<Uuid>().unwrap();
    let at = |column: usize| chrono::DateTime::from_timestamp_micros(row.get(column)).unwrap();
    let keys = ward.server.app.keys.tenant(ward.tenant.id).await.unwrap();
    let salt = keys.open(id(0), &Sealed::<SignatureSalt>::from_bytes(row.get(1))).unwrap();
    let salt: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&salt[2 * at..2 * at + 2], 16).unwrap()).collect();
    let content = Content {
        tenant: ward.tenant.id,
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
    let holds = |content: &Content<'_>, signing| verify(&keys, content, signing, &salt, row.get(2), row.get(3));
    assert!(holds(&content, signing));
    assert_eq!(row.get::<_, Vec<u8>>(6), keys.verify_key());
    assert!(!holds(&Content { body: "Stable!", ..content.clone() }, signing));
    assert!(!holds(&Content { title: None, ..content.clone() }, signing));
    assert!(!holds(&Content { number: 2, ..content.clone() }, signing));
    assert!(!holds(&Content { patient: PatientId::new(), ..content.clone() }, signing));
    assert!(!holds(&content, Signing { meaning: Meaning::Signer, ..signing }));
    assert!(!holds(&content, Signing { signer: StaffId::new(), ..signing }));
}

#[tokio::test]
async fn work_lists_show_what_waits() {
    let site = Site::shared().await;
    for model in MODELS {
        let ward = Ward::open(site, site.tenant(model).await).await;
        let (bob, tom) = (ward.token("clinician", "bob"), ward.token("trainee", "tom"));
        let encounter = ward.change(&bob, START, json!({ "patientId": ward.patient, "class": "AMB" })).await.unwrap();
        let id =
            async |token: &str| ward.server.data(token, "{ viewer { id } }", json!({})).await["viewer"]["id"].take();
        let write = async |token: &str, kind: &str, body: &str, more: Value| {
            let mut input = json!({ "patientId": ward.patient, "type": kind, "body": body });
            input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            ward.change(token, DRAFT, input).await.unwrap()
        };
        let sign = async |token: &str, note: &Value| {
            ward.change(token, SIGN, json!({ "id": note["id"], "expectedVersion": note["version"] })).await.unwrap();
        };
        write(&ward.alice, "11506-3", "a", json!({})).await;
        sign(&ward.alice, &write(&ward.alice, "34117-2", "b", json!({ "encounterId": encounter["id"] })).await).await;
        write(&tom, "34117-2", "c", json!({ "signerIds": [id(&bob).await] })).await;
        sign(&tom, &write(&tom, "11506-3", "d", json!({ "signerIds": [id(&bob).await] })).await).await;
        let list = async |token: &str, filter: Value| {
            let query = "query ($filter: NoteFilter) { notes(filter: $filter) { edges { node { body } } } }";
            let data = ward.server.data(token, query, json!({ "filter": filter })).await;
            data["notes"]["edges"]
                .as_array()
                .unwrap()
                .iter()
                .map(|edge| edge["node"]["body"].as_str().unwrap().to_owned())
                .collect::<String>()
        };
        let (alices, toms) = (id(&ward.alice).await, id(&tom).await);
        for (token, filter, expected) in [
            (&ward.alice, Value::Null, "dba"),
            (&bob, Value::Null, "dcb"),
            (&tom, Value::Null, "dcb"),
            (&ward.alice, json!({ "mine": true }), "ba"),
            (&ward.alice, json!({ "mine": false }), "dba"),
            (&ward.alice, json!({ "awaitingMySignature": true }), "a"),
            (&bob, json!({ "awaitingMySignature": true }), "dc"),
            (&bob, json!({ "awaitingMySignature": true, "mine": true }), ""),
            (&tom, json!({ "awaitingMySignature": true }), "c"),
            (&bob, json!({ "authorId": toms }), "dc"),
            (&bob, json!({ "authorId": alices, "status": ["DRAFT"] }), ""),
            (&bob, json!({ "type": ["34117-2"], "status": ["SIGNED", "DRAFT"] }), "cb"),
            (&bob, json!({ "encounterId": encounter["id"] }), "b"),
            (&bob, json!({ "patientId": opaque(b'p', Uuid::now_v7()) }), ""),
            (&bob, json!({ "from": "2999-01-01T00:00:00Z" }), ""),
            (&bob, json!({ "to": "2000-01-01T00:00:00Z" }), ""),
        ] {
            assert_eq!(list(token, filter.clone()).await, expected, "{model}: {filter}");
        }
        let many = json!({ "filter": { "type": vec!["x"; 51] } });
        let refused = ward
            .server
            .ask(&bob, "query ($filter: NoteFilter) { notes(filter: $filter) { edges { node { id } } } }", many)
            .await
            .1;
        assert_eq!(refused["errors"][0]["extensions"], json!({ "code": "INVALID_INPUT", "field": "filter.type" }));
    }
}

#[tokio::test]
async fn an_answer_has_so_much_text_and_no_more() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[1]).await).await;
    let mut settings = site.server_settings();
    settings.limits.answer_bytes = 10_000;
    let server = crate::server::Server::start(site, settings, cordon::isolation::BootCheck::Dev);
    for _ in 0..3 {
        let input = json!({ "patientId": ward.patient, "type": "34117-2", "body": "x".repeat(4_000) });
        ward.change(&ward.alice, DRAFT, input).await.unwrap();
    }
    let (status, body) = server.ask(&ward.alice, "{ notes { edges { node { id body } } } }", json!({})).await;
    let edges = body["data"]["notes"]["edges"].as_array().unwrap();
    assert_eq!((status, edges.iter().filter(|edge| edge["node"]["body"].is_string()).count()), (200, 2), "{status}");
    assert_eq!(body["errors"][0]["extensions"]["code"], "LIMIT_EXCEEDED");
}

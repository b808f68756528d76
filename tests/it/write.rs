//! What a write leaves: exactly its rows, in the audit log under its own name, once for each Idempotency-Key; and what a request that
//! changes several things answers when something fails in between.

use crate::charts::Charts;
use crate::server::Server;
use crate::site::{MODELS, Site, actor, statement};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cordon::guard::TxKind;
use cordon::ids::RequestId;
use cordon::isolation::BootCheck;
use cordon::tenant::Tenant;
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

pub const REGISTER: &str = "mutation ($input: RegisterPatientInput!) { registerPatient(input: $input) { patient {
    id version birthDate sex deceasedAt name { text family given } identifiers { system value } } } }";
pub const UPDATE: &str = "mutation ($input: UpdatePatientInput!) { updatePatient(input: $input) { patient {
    id version birthDate sex deceasedAt name { text family given } identifiers { system value } } } }";
pub const START: &str = "mutation ($input: StartEncounterInput!) { startEncounter(input: $input) { encounter {
    id version status class reason startedAt endedAt patient { id } } } }";
pub const FINISH: &str = "mutation ($input: FinishEncounterInput!) { finishEncounter(input: $input) { encounter { id version status endedAt } } }";
pub const CANCEL: &str = "mutation ($input: CancelEncounterInput!) { cancelEncounter(input: $input) { encounter { id version status cancelReason } } }";
pub const DRAFT: &str = "mutation ($input: DraftNoteInput!) { draftNote(input: $input) { note {
    id version status title body type { code display } author { id name } encounter { id } patient { id } signedAt } } }";
pub const REVISE: &str =
    "mutation ($input: ReviseDraftInput!) { reviseDraft(input: $input) { note { id version status title body } } }";
pub const DISCARD: &str = "mutation ($input: DiscardDraftInput!) { discardDraft(input: $input) { discardedNoteId } }";
pub const SIGN: &str = "mutation ($input: SignNoteInput!) { signNote(input: $input) { note {
    id version status title body signedAt signatures { meaning signedAt signer { id name } } } } }";

/// A tenant with somebody to write for.
pub struct Ward<'a> {
    pub server: Server<'a>,
    pub tenant: Tenant,
    pub alice: String,
    pub patient: String,
}

impl<'a> Ward<'a> {
    pub async fn open(site: &'a Site, tenant: Tenant) -> Self {
        let server = Server::of(site);
        let alice = site.token(&[tenant.id], "clinician", "alice");
        let input = json!({ "identifiers": [{ "system": "urn:mrn", "value": "1" }], "sex": "FEMALE", "name": { "text": "Ada Writ" } });
        let made = server.data(&alice, REGISTER, json!({ "input": input })).await;
        let patient = made["registerPatient"]["patient"]["id"].as_str().unwrap().to_owned();
        Self { server, tenant, alice, patient }
    }

    /// A change as someone; what came of it, or the code of its error.
    pub async fn change(&self, token: &str, mutation: &str, input: Value) -> Result<Value, (String, Value)> {
        let (status, mut body) = self.server.ask(token, mutation, json!({ "input": input })).await;
        assert!(status == 200 || body["data"].is_null(), "{status} {body}");
        match body["errors"][0]["extensions"]["code"].as_str() {
            Some(code) => Err((code.to_owned(), body["errors"][0]["extensions"].take())),
            None => Ok(body["data"]
                .as_object_mut()
                .unwrap()
                .values_mut()
                .next()
                .unwrap()
                .as_object_mut()
                .unwrap()
                .values_mut()
                .next()
                .unwrap()
                .take()),
        }
    }

    pub fn token(&self, role: &str, subject: &str) -> String {
        self.server.site.token(&[self.tenant.id], role, subject)
    }

    /// A draft of Alice's.
    pub async fn draft(&self) -> Value {
        let input = json!({ "patientId": self.patient, "type": "34117-2", "title": "First", "body": "Stable." });
        self.change(&self.alice, DRAFT, input).await.unwrap()
    }

    /// Rows of a table as a superuser sees them.
    pub async fn rows(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        let placement = self.tenant.placement.as_ref().unwrap();
        let session = self.server.site.superuser(&placement.database).await;
        session.batch_execute(&format!("set search_path = {}", placement.schema)).await.unwrap();
        session.query(&sql.replace("$tenant", &format!("'{}'", self.tenant.id)), &[]).await.unwrap()
    }
}

/// An id as clients see it.
pub fn opaque(kind: u8, id: Uuid) -> String {
    let bytes: Vec<u8> = [kind].into_iter().chain(id.into_bytes()).collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn the_audit_log_says_what_a_write_was() {
    let site = Site::shared().await;
    for model in MODELS {
        let ward = Ward::open(site, site.tenant(model).await).await;
        let note = ward.draft().await;
        let input = json!({ "id": note["id"], "expectedVersion": 1, "body": "Improving." });
        ward.change(&ward.alice, REVISE, input).await.unwrap();
        ward.change(&ward.alice, SIGN, json!({ "id": note["id"], "expectedVersion": 2 })).await.unwrap();
        let encounter =
            ward.change(&ward.alice, START, json!({ "patientId": ward.patient, "class": "AMB" })).await.unwrap();
        ward.change(&ward.alice, FINISH, json!({ "id": encounter["id"], "expectedVersion": 1 })).await.unwrap();
        let rows = ward
            .rows(
                "select action, resource_type, purpose, name, roles, host(ip), array_length(resource_ids, 1), patient_id is not null
                 from audit_log where tenant_id = $tenant and purpose = 'write' order by recorded_at",
            )
            .await;
        let actions: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let expected = [
            "patient.registered",
            "note.drafted",
            "note.revised",
            "note.signed",
            "encounter.started",
            "encounter.finished",
        ];
        assert_eq!(actions, expected, "{model}");
        for row in &rows {
            let (name, roles): (String, Vec<String>) = (row.get(3), row.get(4));
            assert_eq!((name.as_str(), roles), ("Dr. alice", vec!["clinician".to_owned()]));
            let (ip, ids, patient): (String, i32, bool) = (row.get(5), row.get(6), row.get(7));
            assert_eq!((ip.as_str(), ids, patient), ("127.0.0.1", 1, true), "a write says where it came from");
        }
        let reads =
            ward.rows("select count(*) from audit_log where tenant_id = $tenant and purpose = 'read' and action like '%.read'").await;
        assert_eq!(reads[0].get::<_, i64>(0), 6, "{model}: each payload that was shown is a read");
    }
}

#[tokio::test]
async fn who_comes_with_other_roles_leaves_a_row_with_both() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[1]).await).await;
    ward.change(&ward.token("trainee", "alice"), START, json!({ "patientId": ward.patient, "class": "AMB" }))
        .await
        .unwrap();
    ward.change(&ward.token("trainee", "alice"), START, json!({ "patientId": ward.patient, "class": "AMB" }))
        .await
        .unwrap();
    let rows = ward
        .rows("select roles_before, roles from audit_log where tenant_id = $tenant and action = 'staff.roles'")
        .await;
    assert_eq!(rows.len(), 1);
    let roles: (Vec<String>, Vec<String>) = (rows[0].get(0), rows[0].get(1));
    assert_eq!(roles, (vec!["clinician".to_owned()], vec!["trainee".to_owned()]));
    assert_eq!(ward.rows("select from staff where tenant_id = $tenant").await.len(), 1);
}

#[tokio::test]
async fn a_key_makes_a_change_once() {
    let site = Site::shared().await;
    for model in MODELS {
        let ward = Ward::open(site, site.tenant(model).await).await;
        let ask = async |token: &str, key: &str, class: &str| {
            let two = format!(
                "mutation {{ a: startEncounter(input: {{ patientId: \"{0}\", class: \"{class}\" }}) {{ encounter {{ id }} }}
                             b: startEncounter(input: {{ patientId: \"{0}\", class: \"{class}\" }}) {{ encounter {{ id }} }} }}",
                ward.patient
            );
            let request = ward.server.question(token, &two, json!({})).header("idempotency-key", key);
            crate::server::Reply::to(request).await
        };
        let first = ask(&ward.alice, "k-1", "AMB").await;
        assert_ne!(first.json()["data"]["a"], first.json()["data"]["b"], "two changes of one request are two");
        assert_eq!(ask(&ward.alice, "k-1", "AMB").await.json(), first.json(), "{model}");
        assert_eq!(ask(&ward.alice, "k-1", "EMER").await.code(), "CONFLICT");
        let count = async || ward.rows("select from encounters where tenant_id = $tenant").await.len();
        assert_eq!(count().await, 2);
        ask(&ward.token("clinician", "bob"), "k-1", "AMB").await;
        assert_eq!(count().await, 4, "keys are a person's own");
        let tx = ward
            .server
            .app
            .guards
            .work(ward.tenant.id, &actor(ward.tenant.id, "clinician"), TxKind::Write, RequestId::new())
            .await
            .unwrap();
        statement(&tx, "update idempotency_keys set created_at = now() - interval '25 hours'").await.unwrap();
        tx.commit().await.unwrap();
        let later = ask(&ward.alice, "k-1", "EMER").await;
        assert_eq!((later.status, later.code().as_str(), count().await), (200, "", 6), "a day later the key is free");
        assert_eq!(
            ward.rows("select from idempotency_keys where tenant_id = $tenant").await.len(),
            2,
            "what is forgotten goes"
        );
        let twins = join_all((0..6).map(|_| ask(&ward.alice, "k-twin", "AMB"))).await;
        assert!(twins.iter().all(|twin| twin.status == 200 && twin.json() == twins[0].json()), "{model}: {twins:?}");
        assert_eq!(count().await, 8, "at the same time, too");
        for bad in ["", " ", "a b", &"k".repeat(201), "schlüssel"] {
            assert_eq!(ask(&ward.alice, bad, "AMB").await.outcome(), (400, "INVALID_INPUT".into()), "{bad:?}");
        }
        // What was refused is not remembered.
        let wrong = json!({ "query": REGISTER, "variables": { "input": { "identifiers": [{ "system": "urn:mrn", "value": "1" }], "sex": "MALE" } } });
        let taken = ward.server.post(&ward.alice).header("idempotency-key", "k-2").json(&wrong);
        assert_eq!(crate::server::Reply::to(taken).await.code(), "CONFLICT");
        assert_eq!(ward.rows("select from idempotency_keys where tenant_id = $tenant").await.len(), 4);
    }
}

#[tokio::test]
async fn changes_of_one_request_follow_each_other_and_see_each_other() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[0]).await).await;
    let note = ward.draft().await;
    let id = note["id"].as_str().unwrap();
    let three = format!(
        "mutation {{ a: reviseDraft(input: {{ id: \"{id}\", expectedVersion: 1, body: \"two\" }}) {{ note {{ version body }} }}
                     b: reviseDraft(input: {{ id: \"{id}\", expectedVersion: 1, body: \"x\" }}) {{ note {{ version body }} }}
                     c: signNote(input: {{ id: \"{id}\", expectedVersion: 2 }}) {{ note {{ version body status }} }} }}"
    );
    let (status, body) = ward.server.ask(&ward.alice, &three, json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(body["data"]["a"]["note"], json!({ "version": 2, "body": "two" }));
    assert_eq!((&body["data"]["b"], &body["errors"][0]["path"]), (&Value::Null, &json!(["b"])), "{body}");
    assert_eq!(body["errors"][0]["extensions"], json!({ "code": "CONFLICT", "currentVersion": 2 }));
    assert_eq!(body["data"]["c"]["note"], json!({ "version": 3, "body": "two", "status": "SIGNED" }));
}

/// The audit of a payload cannot be written: nothing of it leaves, and the answer says what stands.
#[tokio::test]
async fn what_stands_is_said_when_it_cannot_be_shown() {
    let (_cluster, site) = Site::alone("stands").await;
    let ward = Ward::open(&site, site.tenant(MODELS[1]).await).await;
    let schema = ward.tenant.placement.as_ref().unwrap().schema.clone();
    let superuser = site.superuser("cordon_data").await;
    let broken = format!(
        "set search_path = {schema}; create function public.no() returns trigger language plpgsql as $$ begin
           if new.purpose = 'read' then raise exception 'no'; end if; return new; end $$;
         create trigger no before insert on audit_log for each row execute function public.no()"
    );
    superuser.batch_execute(&broken).await.unwrap();
    let input = json!({ "identifiers": [], "sex": "MALE", "name": { "text": "Stan Ding" } });
    let (status, body) = ward.server.ask(&ward.alice, REGISTER, json!({ "input": input })).await;
    assert_eq!((status, &body["data"]), (200, &Value::Null), "{body}");
    assert_eq!(body["errors"][0]["extensions"]["committed"], json!(["patient.registered"]), "{body}");
    assert!(!body.to_string().contains("Stan"), "{body}");
    assert_eq!(ward.rows("select from patients where tenant_id = $tenant").await.len(), 2, "it stands");
}

#[tokio::test]
async fn a_refused_write_leaves_nothing_but_that_it_was_tried() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[2]).await).await;
    let random = opaque(b'n', Uuid::now_v7());
    assert_eq!(
        ward.change(&ward.alice, SIGN, json!({ "id": random, "expectedVersion": 1 })).await.unwrap_err().0,
        "NOT_FOUND"
    );
    let auditor = ward.token("auditor", "olga");
    let input = json!({ "identifiers": [], "sex": "MALE" });
    assert_eq!(ward.change(&auditor, REGISTER, input).await.unwrap_err().0, "FORBIDDEN");
    let rows =
        ward.rows("select action, outcome from audit_log where tenant_id = $tenant and outcome <> 'success' order by recorded_at").await;
    let rows: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let row = |action: &str, outcome: &str| (action.to_owned(), outcome.to_owned());
    assert_eq!(rows, [row("note.signed", "not_found"), row("registerPatient", "denied")]);
    assert_eq!(ward.rows("select from staff where tenant_id = $tenant and subject = 'olga'").await.len(), 0);
}

/// Charts that came by import are changed like any other.
#[tokio::test]
async fn an_imported_chart_can_be_written_in() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[1]).await).await;
    let charts = Charts { mark: "writzq", patients: 1, encounters: 1, notes: 1 };
    charts.import(site, &ward.tenant).await;
    let query =
        "query ($v: String!) { patientByIdentifier(system: \"http://hospital.test/mrn\", value: $v) { id version } }";
    let found = ward.server.data(&ward.alice, query, json!({ "v": charts.number(0) })).await;
    let input = json!({ "id": found["patientByIdentifier"]["id"], "expectedVersion": 1, "name": { "text": "New Name" }, "birthDate": null });
    let patient = ward.change(&ward.alice, UPDATE, input).await.unwrap();
    assert_eq!(
        (&patient["name"]["text"], &patient["birthDate"], &patient["version"]),
        (&json!("New Name"), &Value::Null, &json!(2))
    );
}

/// However much a request changes, it holds one session at a time.
#[tokio::test]
async fn many_changes_of_one_request_hold_one_session() {
    let site = Site::shared().await;
    let tenant = site.tenant(MODELS[1]).await;
    let mut settings = site.server_settings();
    (settings.database.backends, settings.database.connect_timeout_ms) = (2, 1_500);
    let server = Server::start(site, settings, BootCheck::Dev);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let change = |n: usize| {
        format!("c{n}: registerPatient(input: {{ identifiers: [], sex: OTHER }}) {{ patient {{ id version }} }} ")
    };
    let many = format!("mutation {{ {} }}", (0..20).map(change).collect::<String>());
    let asked = (0..3).map(|_| server.data(&token, &many, json!({})));
    for answer in join_all(asked).await {
        assert_eq!(answer.as_object().unwrap().len(), 20);
    }
}

/// Time runs out in the second change: the first stands, and the answer says so.
#[tokio::test]
async fn what_stands_is_said_when_time_runs_out() {
    let site = Site::shared().await;
    let ward = Ward::open(site, site.tenant(MODELS[0]).await).await;
    let mut settings = site.server_settings();
    settings.http.request_timeout_ms = 700;
    let server = Server::start(site, settings, BootCheck::Dev);
    let holder = site.superuser("cordon_data").await;
    let held = format!("begin; select from shared.patients where tenant_id = '{}' for update", ward.tenant.id);
    holder.batch_execute(&held).await.unwrap();
    let two = format!(
        "mutation {{ a: registerPatient(input: {{ identifiers: [], sex: OTHER }}) {{ patient {{ id }} }}
                     b: updatePatient(input: {{ id: \"{}\", expectedVersion: 1, sex: MALE }}) {{ patient {{ id }} }} }}",
        ward.patient
    );
    let (status, body) = server.ask(&ward.alice, &two, json!({})).await;
    assert_eq!(
        (status, &body["errors"][0]["extensions"]["committed"]),
        (200, &json!(["patient.registered"])),
        "{body}"
    );
    assert_eq!(body["errors"][0]["extensions"]["code"], "TIMEOUT");
    let one = format!(
        "mutation {{ updatePatient(input: {{ id: \"{}\", expectedVersion: 1, sex: MALE }}) {{ patient {{ id }} }} }}",
        ward.patient
    );
    let (status, body) = server.ask(&ward.alice, &one, json!({})).await;
    assert_eq!((status, &body["errors"][0]["extensions"]["code"]), (504, &json!("TIMEOUT")), "{body}");
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(ward.rows("select from patients where tenant_id = $tenant").await.len(), 2);
}

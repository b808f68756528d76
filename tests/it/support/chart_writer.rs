//! Mutations over HTTP: a tenant with one patient and a clinician who writes in the chart.

use crate::support::server::TestServer;
use crate::support::site::Site;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cordon::tenant::Tenant;
use serde_json::{Value, json};
use uuid::Uuid;
pub const REGISTER: &str = "mutation ($input: RegisterPatientInput!) { registerPatient(input: $input) { patient {
    id version birthDate sex deceasedAt name { text family given } identifiers { system value } } } }";
pub const UPDATE: &str = "mutation ($input: UpdatePatientInput!) { updatePatient(input: $input) { patient {
    id version birthDate sex deceasedAt name { text family given } identifiers { system value } } } }";
pub const START: &str = "mutation ($input: StartEncounterInput!) { startEncounter(input: $input) { encounter {
    id version status class reason startedAt endedAt patient { id } } } }";
pub const FINISH: &str = "mutation ($input: FinishEncounterInput!) { finishEncounter(input: $input) { encounter { id \
    version status endedAt } } }";
pub const CANCEL: &str = "mutation ($input: CancelEncounterInput!) { cancelEncounter(input: $input) { encounter { id \
    version status cancelReason } } }";
pub const DRAFT: &str = "mutation ($input: DraftNoteInput!) { draftNote(input: $input) { note {
    id version status title body type { code display } author { id name } encounter { id } patient { id } signedAt } } \
    }";
pub const REVISE: &str =
    "mutation ($input: ReviseDraftInput!) { reviseDraft(input: $input) { note { id version status title body } } }";
pub const DISCARD: &str = "mutation ($input: DiscardDraftInput!) { discardDraft(input: $input) { discardedNoteId } }";
pub const SIGN: &str = "mutation ($input: SignNoteInput!) { signNote(input: $input) { note {
    id version status title body signedAt signatures { meaning signedAt signer { id name } } } } }";

/// A tenant, its server, and the chart to write in.
pub struct ChartWriter<'a> {
    pub server: TestServer<'a>,
    pub tenant: Tenant,
    /// The token of a clinician.
    pub alice: String,
    /// The global id of the registered patient.
    pub patient: String,
}

impl<'a> ChartWriter<'a> {
    pub async fn create(site: &'a Site, tenant: Tenant) -> Self {
        let server = TestServer::of(site);
        let alice = site.token(&[tenant.id], "clinician", "alice");
        let input = json!({ "identifiers": [{ "system": "urn:mrn", "value": "1" }], "sex": "FEMALE",
            "name": { "text": "Ada Writ" } });
        let registered = server.data(&alice, REGISTER, json!({ "input": input })).await;
        let patient = registered["registerPatient"]["patient"]["id"].as_str().unwrap().to_owned();
        Self { server, tenant, alice, patient }
    }

    /// Sends a mutation and returns the object in its payload, or the code and extensions of the first error.
    pub async fn mutate(&self, token: &str, mutation: &str, input: Value) -> Result<Value, (String, Value)> {
        let (status, mut body) = self.server.query(token, mutation, json!({ "input": input })).await;
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

    /// Creates a draft by Alice.
    pub async fn draft_note(&self) -> Value {
        let input = json!({ "patientId": self.patient, "type": "34117-2", "title": "First", "body": "Stable." });
        self.mutate(&self.alice, DRAFT, input).await.unwrap()
    }

    /// Runs a query as a superuser, with the tenant's schema in the search path. `$tenant` is the tenant's id.
    pub async fn rows(&self, sql: &str) -> Vec<tokio_postgres::Row> {
        let placement = self.tenant.placement.as_ref().unwrap();
        let session = self.server.site.superuser(&placement.database).await;
        session.batch_execute(&format!("set search_path = {}", placement.schema)).await.unwrap();
        session.query(&sql.replace("$tenant", &format!("'{}'", self.tenant.id)), &[]).await.unwrap()
    }
}

/// Encodes a global id, as clients see it.
pub fn global_id(kind: u8, id: Uuid) -> String {
    let bytes: Vec<u8> = [kind].into_iter().chain(id.into_bytes()).collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

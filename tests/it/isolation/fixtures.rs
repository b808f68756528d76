//! Six tenants, two of each tenancy model, whose charts have the same shape and no text in common. From each tenant all
//! ids, identifiers and cursors that its own clinician can read over the API are collected. Also values of the same
//! form that do not exist.

use crate::support::fhir_charts::{FhirCharts, SYSTEM};
use crate::support::server::TestServer;
use crate::support::site::{MODELS, Site};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cordon::tenant::Tenant;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// A server and its tenants.
pub struct Fixtures {
    pub server: TestServer<'static>,
    /// One tenant of each model: shared, schema, database. Their values are sent by the neighbours.
    pub owners: Vec<HarvestedTenant>,
    /// One tenant of each model. They send the values of the owners.
    pub neighbours: Vec<HarvestedTenant>,
    /// A suspended tenant.
    pub suspended: Tenant,
}

/// A tenant and the values that its clinician can read.
pub struct HarvestedTenant {
    pub tenant: Tenant,
    /// A word in every text of the tenant's charts.
    pub mark: String,
    /// The token of a clinician.
    pub token: String,
    /// Global ids with the letter of their kind (p, e, n, s, t). The ids of the newest encounter and its notes come
    /// first.
    pub ids: Vec<(char, String)>,
    /// System and value.
    pub identifiers: Vec<(String, String)>,
    /// One cursor of each list, by the name of the list: `Patient.notes`.
    pub cursors: BTreeMap<String, String>,
}

const HARVEST: &str = "query ($system: String!, $value: String!) {
    viewer { id tenant { id } }
    allPatients: patients(first: 1) { edges { cursor } }
    allEncounters: encounters(first: 1) { edges { cursor } }
    allNotes: notes(first: 1) { edges { cursor } }
    patientByIdentifier(system: $system, value: $value) {
        id identifiers { system value }
        encounters(first: 2) { edges { cursor node { id notes(first: 2) { edges { cursor node { id author { id } } } } \
        } } }
        notes(first: 2) { edges { cursor node { id } } }
    }
}";

impl Fixtures {
    /// Returns the fixtures that tests share. No test changes them.
    pub async fn shared() -> &'static Self {
        static FIXTURES: OnceCell<Fixtures> = OnceCell::const_new();
        FIXTURES.get_or_init(Self::create).await
    }

    /// Creates fixtures that a test may change.
    pub async fn create() -> Self {
        let site = Site::shared().await;
        let server = TestServer::of(site);
        let (mut owners, mut neighbours) = (Vec::new(), Vec::new());
        for (number, model) in MODELS.into_iter().enumerate() {
            for (side, tenants) in [("Vor", &mut owners), ("Hin", &mut neighbours)] {
                let tenant = site.tenant(model).await;
                let mark = format!("{side}zq{number}x");
                FhirCharts { mark: &mark, patients: 2, encounters: 3, notes: 3 }.import(site, &tenant).await;
                tenants.push(HarvestedTenant::harvest(&server, tenant, mark).await);
            }
        }
        let suspended = site.tenant(MODELS[0]).await;
        let suspended = cordon::ops::provision::suspend(&site.operator, &suspended.slug).await.unwrap();
        Self { server, owners, neighbours, suspended }
    }

    /// Returns all pairs of an owner and a neighbour: three models by three models.
    pub fn pairs(&self) -> impl Iterator<Item = (&HarvestedTenant, &HarvestedTenant)> {
        self.owners.iter().flat_map(|a| self.neighbours.iter().map(move |b| (a, b)))
    }
}

impl HarvestedTenant {
    async fn harvest(server: &TestServer<'_>, tenant: Tenant, mark: String) -> Self {
        let token = server.site.token(&[tenant.id], "clinician", "alice");
        let value = FhirCharts { mark: &mark, patients: 0, encounters: 0, notes: 0 }.record_number(0);
        let data = server.data(&token, HARVEST, json!({ "system": SYSTEM, "value": value })).await;
        let mut harvested =
            Self { tenant, mark, token, ids: Vec::new(), identifiers: Vec::new(), cursors: BTreeMap::new() };
        harvested.collect("", &data);
        let kinds: Vec<char> = harvested.ids.iter().map(|(kind, _)| *kind).collect();
        for (kind, least) in [('p', 1), ('e', 2), ('n', 4), ('s', 2), ('t', 1)] {
            assert!(kinds.iter().filter(|found| **found == kind).count() >= least, "{kind} in {data}");
        }
        assert_eq!((harvested.identifiers.len(), harvested.cursors.len()), (2, 6), "{data}");
        harvested
    }

    fn collect(&mut self, list: &str, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.collect(list, item)),
            Value::Object(members) => {
                if let (Some(Value::String(system)), Some(Value::String(value))) =
                    (members.get("system"), members.get("value"))
                {
                    self.identifiers.push((system.clone(), value.clone()));
                }
                for (name, value) in members {
                    match (name.as_str(), value) {
                        ("id", Value::String(id)) if self.ids.iter().all(|(_, known)| known != id) => {
                            self.ids.push((id_kind(id), id.clone()))
                        }
                        ("cursor", Value::String(cursor)) => {
                            self.cursors.entry(list.to_owned()).or_insert_with(|| cursor.clone());
                        }
                        ("allPatients", inner) => self.collect("patients", inner),
                        ("allEncounters", inner) => self.collect("encounters", inner),
                        ("allNotes", inner) => self.collect("notes", inner),
                        ("encounters", inner) => self.collect("Patient.encounters", inner),
                        ("notes", inner) if list.is_empty() => self.collect("Patient.notes", inner),
                        ("notes", inner) => self.collect("Encounter.notes", inner),
                        (_, inner) => self.collect(list, inner),
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns the first id of a kind.
    pub fn id(&self, kind: char) -> &str {
        &self.ids.iter().find(|(id_kind, _)| *id_kind == kind).unwrap().1
    }

    /// Returns the record number of the patient.
    pub fn record_number(&self) -> &str {
        &self.identifiers.iter().find(|(system, _)| system == SYSTEM).unwrap().1
    }

    /// Returns the tenant's own value for an argument. `on` is the type of the record that an argument `id` names.
    pub fn value_for(&self, argument: &str, on: &str) -> String {
        match argument.rsplit('.').next().unwrap_or_default() {
            "id" => self.id(on.to_lowercase().trim_start_matches("clinical").chars().next().unwrap()).to_owned(),
            "patientId" => self.id('p').to_owned(),
            "encounterId" => self.id('e').to_owned(),
            "authorId" | "signerIds" => self.id('s').to_owned(),
            "system" => SYSTEM.to_owned(),
            "value" => self.record_number().to_owned(),
            "search" => format!("{}family", self.mark),
            "type" => "34117-2".to_owned(),
            "class" => "AMB".to_owned(),
            "name" | "title" | "body" | "reason" | "family" | "given" | "text" => format!("{}word", self.mark),
            other => panic!("add a value for the argument {other}"),
        }
    }
}

/// Returns the letter of the kind of a global id.
pub fn id_kind(id: &str) -> char {
    char::from(URL_SAFE_NO_PAD.decode(id).unwrap()[0])
}

/// Returns a well-formed global id of this kind that does not exist.
pub fn unknown_id(kind: char) -> String {
    let mut bytes = vec![u8::try_from(kind).unwrap()];
    bytes.extend_from_slice(Uuid::now_v7().as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns a text of the form of a cursor that the server did not issue.
pub fn unknown_cursor() -> String {
    let ids: Vec<u8> = (0..3).flat_map(|_| Uuid::new_v8(*Uuid::now_v7().as_bytes()).into_bytes()).collect();
    URL_SAFE_NO_PAD.encode(&ids[..40])
}

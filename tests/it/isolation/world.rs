//! Six organisations, two in each model, whose charts have the same shape and not a word in common; all that can be learnt of each
//! over the API as its own clinician; and the strangers' values that each kind of it is compared with.

use crate::charts::{Charts, SYSTEM};
use crate::server::Server;
use crate::site::{MODELS, Site};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cordon::tenant::Tenant;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// The server and the organisations.
pub struct World {
    pub server: Server<'static>,
    /// One a model: shared, schema, database.
    pub mine: Vec<Clinic>,
    /// One a model, their neighbours.
    pub others: Vec<Clinic>,
    /// Suspended.
    pub suspended: Tenant,
}

/// An organisation and what its clinician sees.
pub struct Clinic {
    pub tenant: Tenant,
    pub mark: String,
    pub token: String,
    /// First letter of its kind (p, e, n, s, t) and the id, what the newest encounter holds first.
    pub ids: Vec<(char, String)>,
    pub identifiers: Vec<(String, String)>,
    /// By the list they are of: `Patient.notes`.
    pub cursors: BTreeMap<String, String>,
}

const HARVEST: &str = "query ($system: String!, $value: String!) {
    viewer { id tenant { id } }
    allPatients: patients(first: 1) { edges { cursor } }
    allEncounters: encounters(first: 1) { edges { cursor } }
    allNotes: notes(first: 1) { edges { cursor } }
    patientByIdentifier(system: $system, value: $value) {
        id identifiers { system value }
        encounters(first: 2) { edges { cursor node { id notes(first: 2) { edges { cursor node { id author { id } } } } } } }
        notes(first: 2) { edges { cursor node { id } } }
    }
}";

impl World {
    /// One that nobody changes.
    pub async fn get() -> &'static Self {
        static WORLD: OnceCell<World> = OnceCell::const_new();
        WORLD.get_or_init(Self::make).await
    }

    /// One to change things in.
    pub async fn make() -> Self {
        let site = Site::shared().await;
        let server = Server::of(site);
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        for (number, model) in MODELS.into_iter().enumerate() {
            for (side, clinics) in [("Vor", &mut mine), ("Hin", &mut others)] {
                let tenant = site.tenant(model).await;
                let mark = format!("{side}zq{number}x");
                Charts { mark: &mark, patients: 2, encounters: 3, notes: 3 }.import(site, &tenant).await;
                clinics.push(Clinic::visit(&server, tenant, mark).await);
            }
        }
        let suspended = site.tenant(MODELS[0]).await;
        let suspended = cordon::ops::provision::suspend(&site.operator, &suspended.slug).await.unwrap();
        Self { server, mine, others, suspended }
    }

    /// Everyone with everyone else's values: 3 models by 3 models.
    pub fn pairs(&self) -> impl Iterator<Item = (&Clinic, &Clinic)> {
        self.mine.iter().flat_map(|a| self.others.iter().map(move |b| (a, b)))
    }
}

impl Clinic {
    async fn visit(server: &Server<'_>, tenant: Tenant, mark: String) -> Self {
        let token = server.site.token(&[tenant.id], "clinician", "alice");
        let value = Charts { mark: &mark, patients: 0, encounters: 0, notes: 0 }.number(0);
        let data = server.data(&token, HARVEST, json!({ "system": SYSTEM, "value": value })).await;
        let mut clinic =
            Self { tenant, mark, token, ids: Vec::new(), identifiers: Vec::new(), cursors: BTreeMap::new() };
        clinic.learn("", &data);
        let kinds: Vec<char> = clinic.ids.iter().map(|(kind, _)| *kind).collect();
        for (kind, least) in [('p', 1), ('e', 2), ('n', 4), ('s', 2), ('t', 1)] {
            assert!(kinds.iter().filter(|of| **of == kind).count() >= least, "{kind} in {data}");
        }
        assert_eq!((clinic.identifiers.len(), clinic.cursors.len()), (2, 6), "{data}");
        clinic
    }

    fn learn(&mut self, list: &str, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.learn(list, item)),
            Value::Object(members) => {
                if let (Some(Value::String(system)), Some(Value::String(value))) =
                    (members.get("system"), members.get("value"))
                {
                    self.identifiers.push((system.clone(), value.clone()));
                }
                for (name, value) in members {
                    match (name.as_str(), value) {
                        ("id", Value::String(id)) if self.ids.iter().all(|(_, known)| known != id) => {
                            self.ids.push((kind_of(id), id.clone()))
                        }
                        ("cursor", Value::String(cursor)) => {
                            self.cursors.entry(list.to_owned()).or_insert_with(|| cursor.clone());
                        }
                        ("allPatients", inner) => self.learn("patients", inner),
                        ("allEncounters", inner) => self.learn("encounters", inner),
                        ("allNotes", inner) => self.learn("notes", inner),
                        ("encounters", inner) => self.learn("Patient.encounters", inner),
                        ("notes", inner) if list.is_empty() => self.learn("Patient.notes", inner),
                        ("notes", inner) => self.learn("Encounter.notes", inner),
                        (_, inner) => self.learn(list, inner),
                    }
                }
            }
            _ => {}
        }
    }

    /// The first id of a kind.
    pub fn id(&self, kind: char) -> &str {
        &self.ids.iter().find(|(of, _)| *of == kind).unwrap().1
    }

    /// The patient's record number.
    pub fn number(&self) -> &str {
        &self.identifiers.iter().find(|(system, _)| system == SYSTEM).unwrap().1
    }

    /// What this clinic would say where `root` wants `argument`, on a way that goes on as `on`.
    pub fn fills(&self, argument: &str, on: &str) -> String {
        match argument.rsplit('.').next().unwrap_or_default() {
            "id" => self.id(on.to_lowercase().trim_start_matches("clinical").chars().next().unwrap()).to_owned(),
            "patientId" => self.id('p').to_owned(),
            "encounterId" => self.id('e').to_owned(),
            "authorId" | "signerIds" => self.id('s').to_owned(),
            "system" => SYSTEM.to_owned(),
            "value" => self.number().to_owned(),
            "search" => format!("{}family", self.mark),
            "type" => "34117-2".to_owned(),
            "class" => "AMB".to_owned(),
            "name" | "title" | "body" | "reason" | "family" | "given" | "text" => format!("{}word", self.mark),
            other => panic!("what does {other} want? teach the clinic"),
        }
    }
}

/// First letter of what an id is the id of.
pub fn kind_of(id: &str) -> char {
    char::from(URL_SAFE_NO_PAD.decode(id).unwrap()[0])
}

/// A well-formed id of the same kind that is nobody's.
pub fn stranger(kind: char) -> String {
    let mut bytes = vec![u8::try_from(kind).unwrap()];
    bytes.extend_from_slice(Uuid::now_v7().as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A text of the form of a cursor that nobody gave out.
pub fn strange_cursor() -> String {
    let ids: Vec<u8> = (0..3).flat_map(|_| Uuid::new_v8(*Uuid::now_v7().as_bytes()).into_bytes()).collect();
    URL_SAFE_NO_PAD.encode(&ids[..40])
}

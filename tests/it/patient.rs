//! Patients over HTTP: registering, updating and searching.

use crate::support::chart_writer::{ChartWriter, REGISTER, UPDATE, global_id};
use crate::support::site::{MODELS, Site};
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn a_patient_is_registered_and_updated() {
    let site = Site::shared().await;
    for model in MODELS {
        let writer = ChartWriter::create(site, site.tenant(model).await).await;
        let input = json!({
            "identifiers": [{ "system": "urn:mrn", "value": "7" }, { "system": "urn:pass", "value": "П-7" }],
            "name": { "family": "Nguyễn", "given": ["Thị", "山田"] }, "birthDate": "1980-02", "sex": "OTHER" });
        let patient = writer.mutate(&writer.alice, REGISTER, input).await.unwrap();
        assert_eq!(patient["name"], json!({ "text": "Thị 山田 Nguyễn", "family": "Nguyễn", "given": ["Thị", "山田"] }));
        assert_eq!(
            (&patient["birthDate"], &patient["sex"], &patient["version"]),
            (&json!("1980-02"), &json!("OTHER"), &json!(1))
        );
        let numbers = |patient: &Value| {
            let list = patient["identifiers"].as_array().unwrap();
            list.iter().map(|number| number["value"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(numbers(&patient), "7 П-7");
        let edit = |version: i32, edit: Value| {
            let mut input = edit;
            input["id"] = patient["id"].clone();
            input["expectedVersion"] = json!(version);
            writer.mutate(&writer.alice, UPDATE, input)
        };
        // Fields that are not sent stay unchanged.
        let second = edit(1, json!({ "deceasedAt": "2020-01-02T03:04:05Z" })).await.unwrap();
        assert_eq!(
            (&second["name"], &second["birthDate"], numbers(&second)),
            (&patient["name"], &patient["birthDate"], "7 П-7".into())
        );
        assert_eq!((&second["deceasedAt"], &second["version"]), (&json!("2020-01-02T03:04:05Z"), &json!(2)));
        // Null removes a value.
        let third =
            edit(2, json!({ "deceasedAt": null, "name": null, "birthDate": null, "sex": "MALE" })).await.unwrap();
        assert_eq!(
            (&third["deceasedAt"], &third["name"], &third["birthDate"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        let numbered = [json!({ "system": "urn:new", "value": "8" }), json!({ "system": "urn:mrn", "value": "7" })];
        let fourth = edit(3, json!({ "identifiers": numbered })).await.unwrap();
        assert_eq!(numbers(&fourth), "8 7", "in the order of the input; the others are retired");
        assert_eq!(numbers(&edit(4, json!({ "identifiers": null })).await.unwrap()), "");
        assert_eq!(
            writer.rows("select from patient_identifiers where tenant_id = $tenant and retired_at is null").await.len(),
            1
        );
        assert_eq!(
            writer.rows("select from patient_identifiers where tenant_id = $tenant").await.len(),
            4,
            "retired identifiers are kept"
        );
        // A retired identifier can be used again.
        let heir = json!({ "identifiers": [{ "system": "urn:mrn", "value": "7" }], "sex": "UNKNOWN" });
        writer.mutate(&writer.alice, REGISTER, heir).await.unwrap();
        let refused = edit(1, json!({ "sex": "FEMALE" })).await.unwrap_err();
        assert_eq!(refused, ("CONFLICT".into(), json!({ "code": "CONFLICT", "currentVersion": 5 })));
    }
}

#[tokio::test]
async fn an_identifier_belongs_to_one_patient() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[0]).await).await;
    let neighbour = ChartWriter::create(site, site.tenant(MODELS[0]).await).await;
    let number = |value: &str| json!([{ "system": "urn:mrn", "value": value }]);
    let taken = json!({ "identifiers": number("1"), "sex": "MALE" });
    assert_eq!(writer.mutate(&writer.alice, REGISTER, taken).await.unwrap_err().0, "CONFLICT");
    let other =
        writer.mutate(&writer.alice, REGISTER, json!({ "identifiers": number("2"), "sex": "MALE" })).await.unwrap();
    let steal = json!({ "id": other["id"], "expectedVersion": 1, "identifiers": number("1") });
    assert_eq!(writer.mutate(&writer.alice, UPDATE, steal).await.unwrap_err().0, "CONFLICT");
    // An identifier that another tenant uses is free here, and the response does not tell that it is used there.
    let used_by_neighbour = json!({ "identifiers": number("only-there"), "sex": "MALE" });
    neighbour.mutate(&neighbour.alice, REGISTER, used_by_neighbour.clone()).await.unwrap();
    writer.mutate(&writer.alice, REGISTER, used_by_neighbour).await.unwrap();
    let at_once = json!({ "identifiers": number("9"), "sex": "MALE" });
    let (a, b) = tokio::join!(
        writer.mutate(&writer.alice, REGISTER, at_once.clone()),
        writer.mutate(&writer.alice, REGISTER, at_once)
    );
    assert_eq!(a.is_ok() as u8 + b.is_ok() as u8, 1, "{a:?} {b:?}");
}

#[tokio::test]
async fn invalid_patients_are_rejected() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[1]).await).await;
    let long = "n".repeat(10_000);
    let number = json!({ "system": "s", "value": "v" });
    let cases = [
        (json!({ "name": { "text": long } }), "input.name.text"),
        (json!({ "name": { "family": long } }), "input.name.family"),
        (json!({ "name": { "given": vec!["x"; 21] } }), "input.name.given"),
        (json!({ "name": {} }), "input.name"),
        (json!({ "name": { "text": " " } }), "input.name.text"),
        (json!({ "name": { "text": "a\u{7}b" } }), "input.name.text"),
        (json!({ "birthDate": "2999-01-01" }), "input.birthDate"),
        (json!({ "identifiers": [{ "system": "", "value": "v" }] }), "input.identifiers.0.system"),
        (json!({ "identifiers": [number, { "system": "s", "value": "a\nb" }] }), "input.identifiers.1.value"),
        (json!({ "identifiers": [number, number] }), "input.identifiers.1"),
        (json!({ "identifiers": vec![number.clone(); 51] }), "input.identifiers"),
    ];
    for (part, field) in cases {
        let mut input = json!({ "identifiers": [], "sex": "MALE" });
        input.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        let refused = writer.mutate(&writer.alice, REGISTER, input).await.unwrap_err();
        assert_eq!(refused, ("INVALID_INPUT".into(), json!({ "code": "INVALID_INPUT", "field": field })));
    }
    for (field, wrong) in [
        ("birthDate", json!("1980-02-30")),
        ("birthDate", json!("yesterday")),
        ("birthDate", json!(1980)),
        ("sex", json!("male")),
        ("sex", json!(null)),
    ] {
        let mut input = json!({ "identifiers": [], "sex": "MALE" });
        input[field] = wrong.clone();
        let refused = writer.mutate(&writer.alice, REGISTER, input).await.unwrap_err();
        let place = json!({ "code": "INVALID_INPUT", "field": format!("input.{field}") });
        assert_eq!(refused, ("INVALID_INPUT".into(), place), "{wrong}");
    }
    let sexless = json!({ "id": writer.patient, "expectedVersion": 1, "sex": null });
    assert_eq!(writer.mutate(&writer.alice, UPDATE, sexless).await.unwrap_err().1["field"], "input.sex");
    for wrong in ["2999-01-01T00:00:00Z", "2026-11-22"] {
        let deceased = json!({ "id": writer.patient, "expectedVersion": 1, "deceasedAt": wrong });
        assert_eq!(writer.mutate(&writer.alice, UPDATE, deceased).await.unwrap_err().1["field"], "input.deceasedAt");
    }
    let nobody = json!({ "id": global_id(b'p', Uuid::now_v7()), "expectedVersion": 1 });
    assert_eq!(writer.mutate(&writer.alice, UPDATE, nobody).await.unwrap_err().0, "NOT_FOUND");
    assert_eq!(writer.rows("select from patients where tenant_id = $tenant").await.len(), 1);
}

const FIND: &str =
    "query ($search: String, $first: Int, $after: String) { patients(search: $search, first: $first, after: $after) {
    edges { node { name { text } } } pageInfo { hasNextPage endCursor } } }";

async fn search_names(writer: &ChartWriter<'_>, search: &str) -> Vec<String> {
    let page = writer.server.data(&writer.alice, FIND, json!({ "search": search })).await;
    page["patients"]["edges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|edge| edge["node"]["name"]["text"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn patients_are_found_by_name_birth_date_and_identifier() {
    let site = Site::shared().await;
    for model in MODELS {
        let writer = ChartWriter::create(site, site.tenant(model).await).await;
        let register = async |text: &str, number: &str, born: &str| {
            let numbers = json!([{ "system": "urn:mrn", "value": number }]);
            let input = json!({ "name": { "text": text }, "identifiers": numbers, "birthDate": born, "sex": "OTHER" });
            writer.mutate(&writer.alice, REGISTER, input).await.unwrap()
        };
        let zoe = register("Zoë O'Brien-Müller", "A-2", "1990-01-02").await;
        register("山田 太郎", "A-3", "1990").await;
        register("Anna Berg", "A-4", "1990-01-02").await;
        let (zoes, anna) = ("Zoë O'Brien-Müller", "Anna Berg");
        for (search, expected) in [
            ("zo bri", vec![zoes]),
            ("MUELL", vec![]),
            ("mÜll zoe", vec![zoes]),
            ("obrien", vec![zoes]),
            ("1990-01-02", vec![anna, zoes]),
            ("1990-01-02 ann", vec![anna]),
            ("1990-01-03", vec![]),
            ("urn:mrn|A-2", vec![zoes]),
            ("urn:mrn|A-2 anna", vec![]),
            ("urn:other|A-2", vec![]),
            ("山", vec!["山田 太郎"]),
            ("rien", vec![]),
            ("", vec![anna, "山田 太郎", zoes, "Ada Writ"]),
        ] {
            assert_eq!(search_names(&writer, search).await, expected, "{model}: {search:?}");
        }
        // After an update the patient is found by the new values only.
        let edit = json!({ "id": zoe["id"], "expectedVersion": 1, "name": { "text": "Zita \
            Stone" }, "identifiers": [{ "system": "urn:mrn", "value": "B-9" }] });
        writer.mutate(&writer.alice, UPDATE, edit).await.unwrap();
        for (search, expected) in
            [("zoe", 0), ("zit sto", 1), ("urn:mrn|A-2", 0), ("urn:mrn|B-9", 1), ("1990-01-02 zita", 1)]
        {
            assert_eq!(search_names(&writer, search).await.len(), expected, "{model}: {search:?}");
        }
        let (mut names, mut after) = (Vec::new(), Value::Null);
        loop {
            let mut page = writer
                .server
                .data(&writer.alice, FIND, json!({ "search": "1990-01-02", "first": 1, "after": after }))
                .await;
            let page = page["patients"].take();
            names.push(page["edges"][0]["node"]["name"]["text"].clone());
            after = page["pageInfo"]["endCursor"].clone();
            if page["pageInfo"]["hasNextPage"] == false {
                break;
            }
        }
        assert_eq!(names, [json!("Anna Berg"), json!("Zita Stone")]);
        let rows = writer
            .rows(
                "select patient_id is not null from audit_log where tenant_id = $tenant and action = 'patient.read' \
                 and fields = '{name}'",
            )
            .await;
        assert!(
            rows.len() > 10 && rows.iter().all(|row| row.get::<_, bool>(0)),
            "each patient found has an audit row of its own"
        );
    }
}

#[tokio::test]
async fn invalid_searches_are_rejected() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[1]).await).await;
    let search = async |variables: Value| {
        let body = writer.server.query(&writer.alice, FIND, variables).await.1;
        (body["errors"][0]["extensions"].clone(), body)
    };
    for bad in ["a".to_owned(), "ada w".into(), "- -".into(), "n".repeat(10_000), "ab ".repeat(1_000)] {
        let (extensions, body) = search(json!({ "search": bad })).await;
        assert_eq!(extensions, json!({ "code": "INVALID_INPUT", "field": "search" }), "{bad:.20}: {body}");
    }
    for page in [0, -1, 201] {
        assert_eq!(search(json!({ "first": page })).await.0, json!({ "code": "INVALID_INPUT", "field": "first" }));
    }
    search(json!({ "search": "nobody" })).await;
    let rows = writer
        .rows("select from audit_log where tenant_id = $tenant and action = 'patient.search' and outcome = 'not_found'")
        .await;
    assert_eq!(rows.len(), 1, "a search without results is audited");
    for word in ["ada", "writ", "1815-12-10", "urn:mrn|77"] {
        search(json!({ "search": word })).await;
        assert!(!crate::support::log::Log::text().contains(&format!("\"{word}\"")), "search words are in no log");
    }
}

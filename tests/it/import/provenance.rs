//! The stored source of imported resources, their authors, and the audit rows of an import.

use crate::support::fhir::{encounter, identifier, note, patient, practitioner, report, with};
use crate::support::import_tenant::{ImportTenant, counts, id};
use cordon::model::fields::{
    EncounterReason, EncounterSource, IdentifierValue, NoteSource, PatientBirthDate, PatientContact, PatientName,
    PatientSource,
};
use cordon::tenant::TenancyModel;
use serde_json::json;

#[tokio::test]
async fn rows_contain_author_date_type_status_and_source() {
    for target in ImportTenant::of_each().await {
        let phone = json!([{ "system": "phone", "value": "555-0100" }]);
        let identifier = json!([{ "system": "urn:ietf:rfc:3986", "value": "urn:uuid:0f" }]);
        target
            .import(&[
                practitioner("d", "1", "Wolf"),
                with(patient("p"), json!({ "telecom": phone, "meta": { "versionId": "3" } })),
                with(encounter("e", "Patient/p"), json!({ "identifier": identifier })),
                with(
                    note("n", "Patient/p", "text"),
                    json!({ "author": [{ "reference": "Practitioner/d" }], "status": "superseded",
                        "identifier": identifier,
                            "context": { "encounter": [{ "reference": "Encounter/e" }] } }),
                ),
            ])
            .await;
        let row = &target
            .rows(
                "select id::text, sex, name_sealed, birth_date_sealed, contact_sealed, source_sealed from patients \
                where tenant_id = $1",
            )
            .await[0];
        let patient = id(row, 0);
        assert_eq!(row.get::<_, &str>(1), "FEMALE");
        assert_eq!(target.open::<PatientName>(patient, row.get(2)).await.text, "Ann Lee");
        assert_eq!(target.open::<PatientBirthDate>(patient, row.get(3)).await, "1980-02-01");
        assert_eq!(target.open::<PatientContact>(patient, row.get(4)).await["telecom"], phone);
        let source = target.open::<PatientSource>(patient, row.get(5)).await;
        assert_eq!((&source["id"], &source["meta"]["versionId"]), (&json!("p"), &json!("3")));

        let row = &target
            .rows(
                "select id::text, system, kind, exclusive, value_sealed from patient_identifiers where tenant_id = $1",
            )
            .await[0];
        assert_eq!((row.get::<_, &str>(1), row.get::<_, &str>(2), row.get::<_, bool>(3)), ("urn:mrn", "MR", true));
        assert_eq!(target.open::<IdentifierValue>(id(row, 0), row.get(4)).await, "mrn-p");

        let row = &target
            .rows(
                "select id::text, class, started_at::text, reason_sealed, source_sealed from encounters where \
                tenant_id = $1",
            )
            .await[0];
        assert_eq!((row.get::<_, &str>(1), row.get::<_, &str>(2)), ("AMB", "2024-05-06 05:08:09+00"));
        assert_eq!(target.open::<EncounterReason>(id(row, 0), row.get(3)).await, "Fever");
        assert_eq!(target.open::<EncounterSource>(id(row, 0), row.get(4)).await["identifier"], identifier);

        let sql =
            "select n.id::text, n.status, n.type_code, n.authored_at::text, n.source_status, s.name, n.source_sealed, \
             t.display from clinical_notes n
            join staff s on s.tenant_id = n.tenant_id and s.id = n.author_id
            join note_types t on t.tenant_id = n.tenant_id and t.code = n.type_code where n.tenant_id = $1";
        let row = &target.rows(sql).await[0];
        assert_eq!(
            (row.get::<_, &str>(1), row.get::<_, &str>(2), row.get::<_, &str>(4)),
            ("SIGNED", "34117-2", "superseded")
        );
        assert_eq!(row.get::<_, &str>(3), "2024-05-06 05:30:00.123+00");
        assert_eq!(row.get::<_, &str>(5), "Dr. Max Wolf");
        let source = target.open::<NoteSource>(id(row, 0), row.get(6)).await;
        assert_eq!((&source["id"], &source["identifier"]), (&json!("n"), &identifier));
    }
}

#[tokio::test]
async fn every_imported_row_is_audited() {
    for target in ImportTenant::of_each().await {
        let chart = [
            patient("p"),
            patient("q"),
            encounter("e", "Patient/p"),
            note("n1", "Patient/p", "1"),
            note("n2", "Patient/p", "2"),
            note("m", "Patient/q", "3"),
        ];
        target.import(&chart).await;
        target.import(&[note("n1", "Patient/p", "changed")]).await;
        let sql = "select action, resource_type, patient_id::text, cardinality(resource_ids), purpose, roles, issuer, \
            request_id::text from audit_log
            where tenant_id = $1 and purpose = 'import' order by recorded_at, patient_id";
        let rows = target.rows(sql).await;
        let entries: Vec<_> = rows
            .iter()
            .map(|row| format!("{} {} {}", row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, i32>(3)))
            .collect();
        assert_eq!(entries[..3], ["insert patient 1", "insert patient 1", "insert encounter 1"]);
        let mut notes = entries[3..5].to_vec();
        notes.sort();
        assert_eq!(
            (notes, entries[5..].to_vec()),
            (vec!["insert note 1".to_owned(), "insert note 2".into()], vec!["update note 1".to_owned()])
        );
        for row in &rows {
            assert!(row.get::<_, Option<String>>(2).is_some());
            assert_eq!(
                (row.get::<_, Vec<String>>(5), row.get::<_, &str>(6)),
                (vec!["import".to_owned()], "cordon:command")
            );
        }
        let runs: std::collections::BTreeSet<String> = rows.iter().map(|row| row.get(7)).collect();
        assert_eq!(runs.len(), 2, "one request id per run");
        // Every row of the chart is named by an audit row of an insert.
        let unnamed =
            "select count(*) from (select id from patients where tenant_id = $1 union all select id from encounters \
             where tenant_id = $1
            union all select id from clinical_notes where tenant_id = $1) r
            where not exists (select from audit_log a where a.tenant_id = $1 and a.action = 'insert' and r.id = any \
            (a.resource_ids))";
        assert_eq!(target.one::<i64>(unnamed).await, 0);
    }
}

/// Staff names are stored in clear, so only staff may be stored there. Patients and relatives can be authors too, for
/// example of a form.
#[tokio::test]
async fn patients_and_relatives_are_not_stored_as_staff() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let by = |id: &str, author: serde_json::Value, contained: serde_json::Value| {
        with(note(id, "urn:uuid:p", id), json!({ "author": [author], "contained": contained }))
    };
    let relative = json!([{ "resourceType": "RelatedPerson", "id": "r", "name": [{ "text": "Mary Lee" }] }]);
    let done = target
        .import(&[
            patient("p"),
            by("patient", json!({ "reference": "Patient/p", "display": "Ann Lee" }), json!([])),
            by("by-urn", json!({ "reference": "urn:uuid:p", "display": "Ann Lee" }), json!([])),
            by("relative", json!({ "reference": "RelatedPerson/r", "display": "Mary Lee" }), json!([])),
            by("contained", json!({ "reference": "#r", "display": "Mary Lee" }), relative),
            by(
                "typed",
                json!({ "reference": "urn:uuid:r", "type": "RelatedPerson", "display": "Mary Lee" }),
                json!([]),
            ),
            by(
                "logical",
                json!({ "identifier": identifier("MR", "urn:mrn", "1"), "type": "Patient", "display": "Ann Lee" }),
                json!([]),
            ),
            by("bare", json!({ "reference": "urn:uuid:r", "display": "Mary Lee" }), json!([])),
            by(
                "elsewhere",
                json!({ "reference": "https://b.example/fhir/RelatedPerson/r", "display": "Mary Lee" }),
                json!([]),
            ),
            by("number", json!({ "identifier": identifier("SS", "urn:ssn", "1"), "display": "Mary Lee" }), json!([])),
            by("name", json!({ "display": "Mary Lee" }), json!([])),
            with(
                report("r", "Patient/p", "report"),
                json!({ "performer": [{ "reference": "Patient/p", "display": "Ann Lee" }] }),
            ),
            with(
                report("s", "Patient/p", "letter"),
                json!({ "performer": [{ "reference": "urn:uuid:r", "display": "Mary Lee" }] }),
            ),
            by("staff", json!({ "reference": "Organization/o", "display": "Ward 7" }), json!([])),
        ])
        .await;
    assert_eq!((done.report.notes.new, done.rejects.len()), (13, 0), "{:?}", done.rejects);
    let rows = target.rows("select name from staff where tenant_id = $1").await;
    let names: Vec<Option<String>> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, [Some("Ward 7".to_owned())]);
    // The author is kept in the sealed source.
    let row = &target
        .rows("select id::text, source_sealed from clinical_notes where tenant_id = $1 order by id limit 1")
        .await[0];
    assert_eq!(target.open::<NoteSource>(id(row, 0), row.get(1)).await["author"][0]["display"], "Ann Lee");
}

/// A `urn:uuid:` reference is resolved to a practitioner of this or an earlier import.
#[tokio::test]
async fn an_author_is_resolved_when_the_practitioner_is_imported() {
    for target in ImportTenant::of_each().await {
        let by = |id: &str, author: serde_json::Value| with(note(id, "Patient/p", id), json!({ "author": [author] }));
        let notes = [
            patient("p"),
            by("urn", json!({ "reference": "urn:uuid:d", "display": "Dr. Max Wolf" })),
            by(
                "number",
                json!({ "identifier": { "system": "http://hl7.org/fhir/sid/us-npi", "value": "1" }, "display": "Dr. \
                    Max Wolf" }),
            ),
        ];
        let authors = "select count(*) from clinical_notes n join staff s on s.id = n.author_id and s.name = 'Dr. Max \
            Wolf' where n.tenant_id = $1";
        target.import(&notes).await;
        assert_eq!((target.count("staff").await, target.one::<i64>(authors).await), (0, 0));
        target.import(&[practitioner("d", "1", "Wolf")]).await;
        assert_eq!(target.import(&notes).await.report.notes, counts(0, 2, 0, 0));
        assert_eq!((target.count("staff").await, target.one::<i64>(authors).await), (1, 2));
        assert_eq!(target.import(&notes).await.report.notes, counts(0, 0, 2, 0));
    }
}

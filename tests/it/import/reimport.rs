//! Repeated imports of the same and of changed resources: nothing is stored twice, and no version is lost.

use crate::support::fhir::{attachment, encounter, note, patient, practitioner, report, with};
use crate::support::import_tenant::{ImportTenant, StoredNote, counts};
use cordon::guard::{Actor, TxKind};
use cordon::ids::RequestId;
use diesel::sql_query;
use serde_json::{Value, json};

fn chart() -> Vec<Value> {
    let author = json!([{ "reference": "Practitioner/d", "display": "Dr. Max Wolf" }]);
    let context = json!({ "encounter": [{ "reference": "Encounter/e" }] });
    vec![
        practitioner("d", "1", "Wolf"),
        patient("p"),
        encounter("e", "Patient/p"),
        with(note("n1", "Patient/p", "first"), json!({ "author": author, "context": context })),
        note("n2", "Patient/p", "second"),
    ]
}

#[tokio::test]
async fn the_same_input_adds_nothing() {
    for target in ImportTenant::of_each().await {
        let first = target.import(&chart()).await;
        assert_eq!((first.report.patients, first.report.encounters), (counts(1, 0, 0, 0), counts(1, 0, 0, 0)));
        assert_eq!((first.report.notes, first.report.practitioners), (counts(2, 0, 0, 0), counts(1, 0, 0, 0)));
        assert_eq!((first.report.files, first.rejects.len()), (1, 0));
        let before = target.last_change().await;

        let again = target.import(&chart()).await;
        assert_eq!((again.report.patients, again.report.encounters), (counts(0, 0, 1, 0), counts(0, 0, 1, 0)));
        assert_eq!((again.report.notes, again.report.practitioners), (counts(0, 0, 2, 0), counts(0, 0, 1, 0)));
        assert_eq!(target.last_change().await, before, "no row was written");

        // A new export of the same resource, with other metadata, key order and whitespace.
        let exported = with(
            note("n2", "Patient/p", "second"),
            json!({ "meta": { "versionId": "7", "lastUpdated": "2025-01-01T00:00:00Z" } }),
        );
        let pretty = crate::support::fhir::file("json", &serde_json::to_string_pretty(&exported).unwrap());
        assert_eq!(target.try_import(&[pretty]).await.unwrap().report.notes, counts(0, 0, 1, 0));
        assert_eq!(target.last_change().await, before);
    }
}

#[tokio::test]
async fn a_changed_note_is_a_new_version() {
    for target in ImportTenant::of_each().await {
        target.import(&[patient("p"), note("n", "Patient/p", "stable")]).await;
        let changed = with(
            note("n", "Patient/p", "stable, discharge today"),
            json!({ "docStatus": "amended", "description": "Ward round" }),
        );
        assert_eq!(target.import(&[changed]).await.report.notes, counts(0, 1, 0, 0));
        let expected = StoredNote {
            status: "AMENDED".into(),
            current_version: 2,
            titles: vec![None, Some("Ward round".into())],
            bodies: vec!["stable".into(), "stable, discharge today".into()],
        };
        assert_eq!(target.notes().await, [expected]);
        // Different whitespace is a change too, because the import cannot decide which text is meant.
        let spaced = note("n", "Patient/p", "stable,  discharge today");
        assert_eq!(target.import(std::slice::from_ref(&spaced)).await.report.notes, counts(0, 1, 0, 0));
        assert_eq!(target.import(&[spaced]).await.report.notes, counts(0, 0, 1, 0));
        assert_eq!(target.one::<i32>("select version from clinical_notes where tenant_id = $1").await, 3);
    }
}

#[tokio::test]
async fn fhir_statuses_are_mapped() {
    let target = ImportTenant::of(cordon::tenant::TenancyModel::Schema).await;
    let of = |id: &str, elements: Value| with(note(id, "Patient/p", "text"), elements);
    target
        .import(&[
            patient("p"),
            of("a", json!({ "status": "superseded" })),
            of("b", json!({ "docStatus": "preliminary" })),
            of("c", json!({ "status": "entered-in-error" })),
            of("d", json!({ "docStatus": "final" })),
        ])
        .await;
    let statuses: Vec<_> = target.notes().await.into_iter().map(|note| note.status).collect();
    assert_eq!(statuses, ["SIGNED", "UNCOSIGNED", "RETRACTED", "SIGNED"]);
    let superseded = "select count(*) from clinical_notes where tenant_id = $1 and source_status = 'superseded' and \
        status = 'SIGNED'";
    assert_eq!(target.one::<i64>(superseded).await, 1);
    // A note that is later entered in error is retracted, and its versions stay.
    let wrong = of("d", json!({ "status": "entered-in-error" }));
    assert_eq!(target.import(&[wrong]).await.report.notes, counts(0, 1, 0, 0));
    assert_eq!(target.notes().await[3].status, "RETRACTED");
    assert_eq!(target.count("note_versions").await, 5);
}

#[tokio::test]
async fn a_report_that_repeats_a_document_is_skipped() {
    let target = ImportTenant::of(cordon::tenant::TenancyModel::Schema).await;
    let done = target
        .import(&[
            report("same", "Patient/p", "lungs clear"),
            report("other-patient", "Patient/q", "lungs clear"),
            report("other-text", "Patient/p", "lungs not clear"),
            json!({ "resourceType": "DiagnosticReport", "id": "silent", "status": "final",
                "subject": { "reference": "Patient/p" } }),
            json!({ "resourceType": "Observation", "id": "o" }),
            note("n", "Patient/p", "lungs clear"),
            patient("p"),
            patient("q"),
        ])
        .await;
    assert_eq!(done.report.notes, counts(3, 0, 0, 0), "{:?}", done.rejects);
    assert_eq!(done.report.skipped, [("DiagnosticReport".to_owned(), 2), ("Observation".to_owned(), 1)].into());
    assert_eq!(done.rejects, []);
}

#[tokio::test]
async fn the_last_of_two_equal_ids_wins() {
    for target in ImportTenant::of_each().await {
        let renamed = with(patient("p"), json!({ "name": [{ "family": "Li" }] }));
        let ended = with(encounter("e", "Patient/p"), json!({ "status": "cancelled" }));
        let input = [
            patient("p"),
            renamed,
            encounter("e", "Patient/p"),
            ended,
            note("n", "Patient/p", "one"),
            note("n", "Patient/p", "two"),
        ];
        let done = target.import(&input).await;
        let both = counts(1, 1, 0, 0);
        assert_eq!((done.report.patients, done.report.encounters, done.report.notes), (both, both, both));
        assert_eq!(target.notes().await[0].bodies, ["one", "two"]);
        assert_eq!(target.one::<String>("select status from encounters where tenant_id = $1").await, "CANCELLED");
    }
}

#[tokio::test]
async fn a_feed_adds_and_updates() {
    let target = ImportTenant::of(cordon::tenant::TenancyModel::Database).await;
    let post = |resource: Value| {
        json!({ "fullUrl": format!("urn:uuid:{}", resource["id"].as_str().unwrap()), "resource": resource,
                                         "request": { "method": "POST", "url": resource["resourceType"] } })
    };
    let put = |resource: Value| {
        let url = format!("{}/{}", resource["resourceType"].as_str().unwrap(), resource["id"].as_str().unwrap());
        json!({ "resource": resource, "request": { "method": "PUT", "url": url } })
    };
    let first = target.import_bundle(chart().into_iter().map(post).collect()).await;
    assert_eq!(first.report.notes, counts(2, 0, 0, 0), "{:?}", first.rejects);
    let open = with(encounter("e", "Patient/p"), json!({ "status": "in-progress", "class": null }));
    let longer = with(note("n2", "Patient/p", ""), json!({ "content": [attachment("second, and more")] }));
    let moved = with(patient("p"), json!({ "telecom": [{ "system": "phone", "value": "555-0100" }] }));
    let entries = vec![
        put(open),
        put(longer),
        put(moved),
        post(note("n3", "Patient/p", "third")),
        put(practitioner("d", "1", "Wolf")),
    ];
    let second = target.import_bundle(entries).await;
    assert_eq!((second.report.patients, second.report.encounters), (counts(0, 1, 0, 0), counts(0, 1, 0, 0)));
    assert_eq!((second.report.notes, second.report.practitioners), (counts(1, 1, 0, 0), counts(0, 0, 1, 0)));
    assert_eq!(target.notes().await[1].bodies, ["second", "second, and more"]);
    assert!(
        target.one::<Option<String>>("select class from encounters where tenant_id = $1").await.is_none(),
        "a removed element is cleared"
    );
    let versions = "select version from patients where tenant_id = $1";
    assert_eq!(target.one::<i32>(versions).await, 2);
    // A DELETE entry is rejected and deletes nothing.
    let deletion = json!({ "request": { "method": "DELETE", "url": "DocumentReference/n1" } });
    let third = target.import_bundle(vec![deletion]).await;
    assert_eq!((third.reasons(), third.report.notes.rejected), (vec!["delete_not_supported"], 1));
    assert_eq!(target.count("clinical_notes").await, 3);
}

#[tokio::test]
async fn identifiers_follow_the_source() {
    let target = ImportTenant::of(cordon::tenant::TenancyModel::Schema).await;
    let numbered = |numbers: Value| with(patient("p"), json!({ "identifier": numbers }));
    let (mr, dl) =
        (crate::support::fhir::identifier("MR", "urn:mrn", "1"), crate::support::fhir::identifier("DL", "urn:dl", "2"));
    target.import(&[numbered(json!([mr, dl]))]).await;
    assert_eq!(target.import(&[numbered(json!([dl]))]).await.report.patients, counts(0, 1, 0, 0));
    let living = "select count(*) from patient_identifiers where tenant_id = $1 and retired_at is null";
    assert_eq!((target.one::<i64>(living).await, target.count("patient_identifiers").await), (1, 2));
    // A retired identifier can be assigned to another patient, and back again only when it is free.
    let other = with(patient("q"), json!({ "identifier": [mr] }));
    assert_eq!(target.import(&[other]).await.report.patients, counts(1, 0, 0, 0));
    let back = target.import(&[numbered(json!([mr, dl]))]).await;
    assert_eq!((back.report.patients, back.reasons()), (counts(0, 0, 0, 1), vec!["duplicate_identifier"]));
    // An identifier with use `old` is no longer exclusive.
    let old = with(mr.clone(), json!({ "use": "old" }));
    assert_eq!(
        target.import(&[with(patient("q"), json!({ "identifier": [old] }))]).await.report.patients,
        counts(0, 1, 0, 0)
    );
    assert_eq!(target.import(&[numbered(json!([mr, dl]))]).await.report.patients, counts(0, 1, 0, 0));
    let owner: String = target
        .one(
            "select patient_id::text from patient_identifiers where tenant_id = $1 and exclusive and retired_at \
            is null",
        )
        .await;
    assert_eq!(
        owner,
        target.one::<String>("select id::text from patients where tenant_id = $1 order by id limit 1").await
    );
}

#[tokio::test]
async fn an_import_may_change_imported_rows_only() {
    for target in ImportTenant::of_each().await {
        target.import(&[patient("p"), note("n", "Patient/p", "text")]).await;
        let attempt = async |change: &str| {
            let (tenant, guards) = (target.tenant.id, &target.app.guards);
            let tx = guards
                .begin_operation(tenant, &Actor::command(tenant, "import"), TxKind::Import, RequestId::new())
                .await
                .unwrap();
            let done = tx.execute(sql_query(format!("update clinical_notes set {change}"))).await;
            match done {
                Ok(rows) => tx.commit().await.map(|()| rows),
                Err(error) => Err(error),
            }
        };
        assert_eq!(attempt("status = 'RETRACTED'").await.unwrap(), 1);
        assert_eq!(attempt("status = 'SIGNED'").await.unwrap(), 1);
        for change in ["source_key = null", "source_key = '\\x00'", "status = 'DRAFT'", "current_version = 2"] {
            assert!(attempt(change).await.is_err(), "{change}");
        }
        assert_eq!(target.notes().await[0].current_version, 1);
    }
}

//! Unusual and invalid resources: whatever happens to such a resource, the others of the same input are imported.

use crate::support::fhir::{attachment, encounter, file, identifier, note, patient, practitioner, with};
use crate::support::import_tenant::{ImportTenant, counts};
use cordon::tenant::TenancyModel;
use serde_json::{Value, json};

#[tokio::test]
async fn extreme_dates() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let dated = |date: &str| {
        with(note(&format!("n{}", date.replace([':', '+'], "-")), "Patient/p", date), json!({ "date": date }))
    };
    let valid = [
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999Z",
        "1582-10-10",
        "9999",
        "0001-01",
        "2016-12-31T23:59:60Z",
        "2024-02-29T24:00:00Z",
    ];
    let out_of_range = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "0000-06-01", "10000-01-01"];
    let mut input = vec![with(patient("p"), json!({ "birthDate": "0001", "deceasedDateTime": "9999-12" }))];
    input.push(with(encounter("e", "Patient/p"), json!({ "period": { "start": "0001", "end": "9999" } })));
    input.extend(valid.iter().chain(&out_of_range).map(|date| dated(date)));
    let done = target.import(&input).await;
    assert_eq!((done.report.patients, done.report.encounters), (counts(1, 0, 0, 0), counts(1, 0, 0, 0)));
    assert_eq!(done.rejects.iter().filter(|(_, _, reason)| reason != "invalid_date").count(), 0, "{:?}", done.rejects);
    assert!((5..=6).contains(&done.report.notes.rejected), "{:?}", done.rejects);
    // All stored dates are in the range that the API can return.
    let years = "select count(*) from clinical_notes where tenant_id = $1 and extract(year from authored_at at time \
        zone 'utc') not between 1 and 9999";
    assert_eq!(target.one::<i64>(years).await, 0);
}

#[tokio::test]
async fn long_empty_and_unusual_texts() {
    for target in ImportTenant::of_each().await {
        let long = "N\u{fc}\u{5c71}'\"\\;-- ".repeat(1_000);
        let coded = |code: &str| json!({ "coding": [{ "system": "http://loinc.org", "code": code, "display": long }] });
        let of = |id: &str, elements: Value| with(note(id, "Patient/p", "text"), elements);
        let done = target
            .import(&[
                with(
                    patient("p"),
                    json!({ "name": [{ "family": long, "given": [long, "", null] }], "gender": long,
                    "identifier": [identifier("MR", &long, &long), { "system": "", "value": "x" }, { "value": "" },
                        { "system": "urn:a" },
                                   { "type": { "text": long }, "system": "urn:odd", "value": "1" }] }),
                ),
                with(practitioner("d", &long, &long), json!({})),
                with(
                    encounter("e", "Patient/p"),
                    json!({ "class": { "code": long }, "reasonCode": [{ "text": long }],
                    "status": long }),
                ),
                of("code", json!({ "type": coded("a b'; drop table patients; --") })),
                of("display", json!({ "type": coded("99999-9") })),
                of("author", json!({ "author": [{ "display": long }] })),
                of("title", json!({ "description": long, "status": long, "docStatus": long })),
                of("body", json!({ "content": [attachment(&"\u{1f600} one megabyte ".repeat(60_000))] })),
                of(
                    "controls",
                    json!({ "content": [attachment("a\u{1}\u{7}\u{1b}[31m\u{feff}\u{202e}\u{fffe}\r\nb")] }),
                ),
            ])
            .await;
        assert_eq!(done.rejects, []);
        assert_eq!(
            (done.report.patients, done.report.encounters, done.report.notes),
            (counts(1, 0, 0, 0), counts(1, 0, 0, 0), counts(6, 0, 0, 0))
        );
        let notes = target.notes().await;
        assert_eq!(notes[3].titles, [Some(long)]);
        assert_eq!(notes[4].bodies[0].chars().count(), 60_000 * 15);
    }
}

#[tokio::test]
async fn many_identifiers_and_many_practitioners() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let numbers = |from: u32| {
        (from..from + 8_000).map(|at| json!({ "system": "urn:visits", "value": at.to_string() })).collect::<Vec<_>>()
    };
    let busy = |from: u32| with(patient("p"), json!({ "identifier": numbers(from) }));
    assert_eq!(target.import(&[busy(0)]).await.report.patients, counts(1, 0, 0, 0));
    // All identifiers but one change. One statement could not have a parameter for each.
    assert_eq!(target.import(&[busy(7_999)]).await.report.patients, counts(0, 1, 0, 0));
    let living = "select count(*) from patient_identifiers where tenant_id = $1 and retired_at is null";
    assert_eq!(target.one::<i64>(living).await, 8_000);
    let crowd: Vec<Value> = (0..700).map(|at| practitioner(&format!("d{at}"), &at.to_string(), "Wolf")).collect();
    assert_eq!(target.import(&crowd).await.report.practitioners, counts(700, 0, 0, 0));
}

#[tokio::test]
async fn invalid_resources_are_rejected_individually() {
    let target = ImportTenant::of(TenancyModel::Schema).await;
    let lines = [
        patient("p").to_string(),
        note("nul", "Patient/p", "x").to_string().replace("\"current\"", "\"cur\\u0000rent\""),
        note("half", "Patient/p", "x").to_string().replace("\"current\"", "\"cur\\ud800rent\""),
        with(
            note("base64", "Patient/p", ""),
            json!({ "content": [{ "attachment": { "contentType": "text/plain", "data": "%%%" } }] }),
        )
        .to_string(),
        with(note("nul-in-text", "Patient/p", ""), json!({ "content": [attachment("a\u{0}b")] })).to_string(),
        with(note("empty", "Patient/p", ""), json!({ "content": [attachment(" \n ")] })).to_string(),
        with(
            note("pdf", "Patient/p", ""),
            json!({ "content": [{ "attachment": { "contentType": "application/pdf", "data": "JVBERg==" } }] }),
        )
        .to_string(),
        with(note("undated", "Patient/p", "x"), json!({ "date": null })).to_string(),
        note("fine", "Patient/p", "quotes ' \" and \\ ; --").to_string(),
    ];
    let done = target.try_import(&[file("ndjson", &lines.join("\n"))]).await.unwrap();
    assert_eq!(
        (done.report.notes.new, target.notes().await[0].bodies.clone()),
        (1, vec!["quotes ' \" and \\ ; --".to_owned()])
    );
    let mut reasons = done.reasons();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        [
            "attachment_not_text",
            "bad_base64",
            "empty_note",
            "malformed_json",
            "no_date",
            "nul_character",
            "nul_character"
        ]
    );
}

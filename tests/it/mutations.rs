//! Mutations in general: their rows in the audit log, idempotency keys, several mutations in one request, and what a
//! response says when a later step fails.

use crate::support::chart_writer::{ChartWriter, FINISH, REGISTER, REVISE, SIGN, START, UPDATE, global_id};
use crate::support::fhir_charts::FhirCharts;
use crate::support::server::TestServer;
use crate::support::site::{MODELS, Site};
use cordon::isolation::BootCheck;
use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn the_audit_log_names_each_mutation() {
    let site = Site::shared().await;
    for model in MODELS {
        let writer = ChartWriter::create(site, site.tenant(model).await).await;
        let note = writer.draft_note().await;
        let input = json!({ "id": note["id"], "expectedVersion": 1, "body": "Improving." });
        writer.mutate(&writer.alice, REVISE, input).await.unwrap();
        writer.mutate(&writer.alice, SIGN, json!({ "id": note["id"], "expectedVersion": 2 })).await.unwrap();
        let encounter =
            writer.mutate(&writer.alice, START, json!({ "patientId": writer.patient, "class": "AMB" })).await.unwrap();
        writer.mutate(&writer.alice, FINISH, json!({ "id": encounter["id"], "expectedVersion": 1 })).await.unwrap();
        let rows = writer
            .rows(
                "select action, resource_type, purpose, name, roles, host(ip), array_length(resource_ids, 1), \
                 patient_id is not null
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
            assert_eq!(
                (ip.as_str(), ids, patient),
                ("127.0.0.1", 1, true),
                "the row of a write names the client address"
            );
        }
        let reads = writer
            .rows(
                "select count(*) from audit_log where tenant_id = $tenant and purpose = 'read' and action like \
                '%.read'",
            )
            .await;
        assert_eq!(reads[0].get::<_, i64>(0), 6, "{model}: each payload that was returned is a read");
    }
}

#[tokio::test]
async fn changed_roles_of_a_caller_are_audited() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[1]).await).await;
    writer
        .mutate(&writer.token("trainee", "alice"), START, json!({ "patientId": writer.patient, "class": "AMB" }))
        .await
        .unwrap();
    writer
        .mutate(&writer.token("trainee", "alice"), START, json!({ "patientId": writer.patient, "class": "AMB" }))
        .await
        .unwrap();
    let rows = writer
        .rows("select roles_before, roles from audit_log where tenant_id = $tenant and action = 'staff.roles'")
        .await;
    assert_eq!(rows.len(), 1);
    let roles: (Vec<String>, Vec<String>) = (rows[0].get(0), rows[0].get(1));
    assert_eq!(roles, (vec!["clinician".to_owned()], vec!["trainee".to_owned()]));
    assert_eq!(writer.rows("select from staff where tenant_id = $tenant").await.len(), 1);
}

#[tokio::test]
async fn an_idempotency_key_executes_a_mutation_once() {
    let site = Site::shared().await;
    for model in MODELS {
        let writer = ChartWriter::create(site, site.tenant(model).await).await;
        let start_two = async |token: &str, key: &str, class: &str| {
            let two = format!(
                "mutation {{ a: startEncounter(input: {{ patientId: \"{0}\", class: \"{class}\" }}) {{ encounter {{ id \
                 }} }}
                             b: startEncounter(input: {{ patientId: \"{0}\", class: \"{class}\" }}) {{ encounter {{ id \
                             }} }} }}",
                writer.patient
            );
            let request = writer.server.query_request(token, &two, json!({})).header("idempotency-key", key);
            crate::support::server::Response::of(request).await
        };
        let first = start_two(&writer.alice, "k-1", "AMB").await;
        assert_ne!(
            first.json()["data"]["a"],
            first.json()["data"]["b"],
            "two mutations in one request are both executed"
        );
        assert_eq!(start_two(&writer.alice, "k-1", "AMB").await.json(), first.json(), "{model}");
        assert_eq!(start_two(&writer.alice, "k-1", "EMER").await.code(), "CONFLICT");
        let count = async || writer.rows("select from encounters where tenant_id = $tenant").await.len();
        assert_eq!(count().await, 2);
        start_two(&writer.token("clinician", "bob"), "k-1", "AMB").await;
        assert_eq!(count().await, 4, "the keys of two callers are distinct");
        let placement = writer.tenant.placement.as_ref().unwrap();
        let older = "alter table {s}.idempotency_keys disable trigger user;
            update {s}.idempotency_keys set created_at = now() - interval '25 hours' where tenant_id = '{t}';
            do $$ declare t name; begin for t in select tgname from pg_trigger
              where tgrelid = '{s}.idempotency_keys'::regclass and not tgisinternal loop
              execute format('alter table {s}.idempotency_keys enable always trigger %I', t); end loop; end $$";
        let older = older.replace("{s}", placement.schema.as_str()).replace("{t}", &writer.tenant.id.to_string());
        site.superuser(&placement.database).await.batch_execute(&older).await.unwrap();
        let later = start_two(&writer.alice, "k-1", "EMER").await;
        assert_eq!((later.status, later.code().as_str(), count().await), (200, "", 6), "a key expires after a day");
        assert_eq!(
            writer.rows("select from idempotency_keys where tenant_id = $tenant").await.len(),
            2,
            "expired keys are deleted"
        );
        let twins = join_all((0..6).map(|_| start_two(&writer.alice, "k-twin", "AMB"))).await;
        assert!(twins.iter().all(|twin| twin.status == 200 && twin.json() == twins[0].json()), "{model}: {twins:?}");
        assert_eq!(count().await, 8, "concurrent requests execute the mutation once");
        for bad in ["", " ", "a b", &"k".repeat(201), "schlüssel"] {
            assert_eq!(
                start_two(&writer.alice, bad, "AMB").await.status_and_code(),
                (400, "INVALID_INPUT".into()),
                "{bad:?}"
            );
        }
        // A request that failed leaves no key.
        let wrong = json!({ "query": REGISTER, "variables": { "input": { "identifiers": [{ "system": "urn:mrn",
            "value": "1" }], "sex": "MALE" } } });
        let taken = writer.server.post(&writer.alice).header("idempotency-key", "k-2").json(&wrong);
        assert_eq!(crate::support::server::Response::of(taken).await.code(), "CONFLICT");
        assert_eq!(writer.rows("select from idempotency_keys where tenant_id = $tenant").await.len(), 4);
    }
}

#[tokio::test]
async fn mutations_of_one_request_run_in_order_and_see_each_other() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[0]).await).await;
    let note = writer.draft_note().await;
    let id = note["id"].as_str().unwrap();
    let three = format!(
        "mutation {{ a: reviseDraft(input: {{ id: \"{id}\", expectedVersion: 1, body: \"two\" }}) {{ note {{ version \
         body }} }}
                     b: reviseDraft(input: {{ id: \"{id}\", expectedVersion: 1, body: \"x\" }}) {{ note {{ version \
                     body }} }}
                     c: signNote(input: {{ id: \"{id}\", expectedVersion: 2 }}) {{ note {{ version body status }} }} }}"
    );
    let (status, body) = writer.server.query(&writer.alice, &three, json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(body["data"]["a"]["note"], json!({ "version": 2, "body": "two" }));
    assert_eq!((&body["data"]["b"], &body["errors"][0]["path"]), (&Value::Null, &json!(["b"])), "{body}");
    assert_eq!(body["errors"][0]["extensions"], json!({ "code": "CONFLICT", "currentVersion": 2 }));
    assert_eq!(body["data"]["c"]["note"], json!({ "version": 3, "body": "two", "status": "SIGNED" }));
}

/// The read of a payload cannot be audited: the payload is not returned, and the response names the committed mutation.
#[tokio::test]
async fn a_committed_mutation_is_named_when_its_payload_cannot_be_returned() {
    let (_cluster, site) = Site::with_own_cluster("committed").await;
    let writer = ChartWriter::create(&site, site.tenant(MODELS[1]).await).await;
    let schema = writer.tenant.placement.as_ref().unwrap().schema.clone();
    let superuser = site.superuser("cordon_data").await;
    let broken = format!(
        "set search_path = {schema}; create function public.no() returns trigger language plpgsql as $$ begin
           if new.purpose = 'read' then raise exception 'no'; end if; return new; end $$;
         create trigger no before insert on audit_log for each row execute function public.no()"
    );
    superuser.batch_execute(&broken).await.unwrap();
    let input = json!({ "identifiers": [], "sex": "MALE", "name": { "text": "Stan Ding" } });
    let (status, body) = writer.server.query(&writer.alice, REGISTER, json!({ "input": input })).await;
    assert_eq!((status, &body["data"]), (200, &Value::Null), "{body}");
    assert_eq!(body["errors"][0]["extensions"]["committed"], json!(["patient.registered"]), "{body}");
    assert!(!body.to_string().contains("Stan"), "{body}");
    assert_eq!(
        writer.rows("select from patients where tenant_id = $tenant").await.len(),
        2,
        "the mutation is committed"
    );
}

#[tokio::test]
async fn a_rejected_mutation_leaves_only_its_audit_row() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[2]).await).await;
    let unknown = global_id(b'n', Uuid::now_v7());
    assert_eq!(
        writer.mutate(&writer.alice, SIGN, json!({ "id": unknown, "expectedVersion": 1 })).await.unwrap_err().0,
        "NOT_FOUND"
    );
    let auditor = writer.token("auditor", "olga");
    let input = json!({ "identifiers": [], "sex": "MALE" });
    assert_eq!(writer.mutate(&auditor, REGISTER, input).await.unwrap_err().0, "FORBIDDEN");
    let rows = writer
        .rows(
            "select action, outcome from audit_log where tenant_id = $tenant and outcome <> 'success' order by \
            recorded_at",
        )
        .await;
    let rows: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let row = |action: &str, outcome: &str| (action.to_owned(), outcome.to_owned());
    assert_eq!(rows, [row("note.signed", "not_found"), row("registerPatient", "denied")]);
    assert_eq!(writer.rows("select from staff where tenant_id = $tenant and subject = 'olga'").await.len(), 0);
}

/// Mutations change imported charts like others.
#[tokio::test]
async fn imported_charts_can_be_changed() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[1]).await).await;
    let charts = FhirCharts { mark: "writzq", patients: 1, encounters: 1, notes: 1 };
    charts.import(site, &writer.tenant).await;
    let query =
        "query ($v: String!) { patientByIdentifier(system: \"http://hospital.test/mrn\", value: $v) { id version } }";
    let found = writer.server.data(&writer.alice, query, json!({ "v": charts.record_number(0) })).await;
    let input = json!({ "id": found["patientByIdentifier"]["id"], "expectedVersion": 1, "name": { "text": "New \
        Name" }, "birthDate": null });
    let patient = writer.mutate(&writer.alice, UPDATE, input).await.unwrap();
    assert_eq!(
        (&patient["name"]["text"], &patient["birthDate"], &patient["version"]),
        (&json!("New Name"), &Value::Null, &json!(2))
    );
}

/// A request with many mutations uses one database session at a time.
#[tokio::test]
async fn many_mutations_of_one_request_use_one_session() {
    let site = Site::shared().await;
    let tenant = site.tenant(MODELS[1]).await;
    let mut settings = site.server_settings();
    (settings.database.backends, settings.database.connect_timeout_ms) = (2, 1_500);
    let server = TestServer::start(site, settings, BootCheck::Dev);
    let token = site.token(&[tenant.id], "clinician", "alice");
    let mutation = |n: usize| {
        format!("c{n}: registerPatient(input: {{ identifiers: [], sex: OTHER }}) {{ patient {{ id version }} }} ")
    };
    let many = format!("mutation {{ {} }}", (0..20).map(mutation).collect::<String>());
    let requests = (0..3).map(|_| server.data(&token, &many, json!({})));
    for answer in join_all(requests).await {
        assert_eq!(answer.as_object().unwrap().len(), 20);
    }
}

/// The request times out in the second mutation: the first is committed, and the response names it.
#[tokio::test]
async fn a_committed_mutation_is_named_after_a_timeout() {
    let site = Site::shared().await;
    let writer = ChartWriter::create(site, site.tenant(MODELS[0]).await).await;
    let mut settings = site.server_settings();
    settings.http.request_timeout_ms = 700;
    let server = TestServer::start(site, settings, BootCheck::Dev);
    let holder = site.superuser("cordon_data").await;
    let lock_row = format!("begin; select from shared.patients where tenant_id = '{}' for update", writer.tenant.id);
    holder.batch_execute(&lock_row).await.unwrap();
    let two = format!(
        "mutation {{ a: registerPatient(input: {{ identifiers: [], sex: OTHER }}) {{ patient {{ id }} }}
                     b: updatePatient(input: {{ id: \"{}\", expectedVersion: 1, sex: MALE }}) {{ patient {{ id }} }} \
                     }}",
        writer.patient
    );
    let (status, body) = server.query(&writer.alice, &two, json!({})).await;
    assert_eq!(
        (status, &body["errors"][0]["extensions"]["committed"]),
        (200, &json!(["patient.registered"])),
        "{body}"
    );
    assert_eq!(body["errors"][0]["extensions"]["code"], "TIMEOUT");
    let one = format!(
        "mutation {{ updatePatient(input: {{ id: \"{}\", expectedVersion: 1, sex: MALE }}) {{ patient {{ id }} }} }}",
        writer.patient
    );
    let (status, body) = server.query(&writer.alice, &one, json!({})).await;
    assert_eq!((status, &body["errors"][0]["extensions"]["code"]), (504, &json!("TIMEOUT")), "{body}");
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(writer.rows("select from patients where tenant_id = $tenant").await.len(), 2);
}

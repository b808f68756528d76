//! What SQL can try as the server's own role, by the numbers of THREATS: an intruder bound to tenant B, with tenant A beside it in the same
//! database. The walls all stand; what planted state does to the next request is in `planted.rs`, what can be seen at all in `sights.rs`.

use crate::intruder::{Chart, Intruder, TABLES, Ticket, login};
use crate::site::{Site, actor};
use cordon::db::schema::tenant::patients;
use cordon::guard::TxKind;
use cordon::ids::RequestId;
use cordon::isolation::BootCheck;
use cordon::tenant::TenancyModel;
use diesel::{QueryDsl, sql_query};
use uuid::Uuid;

/// The models in which tenants share a database.
const TOGETHER: [TenancyModel; 2] = [TenancyModel::Shared, TenancyModel::Schema];

/// Victim, neighbour, and a session of the login they have in common.
pub struct Scene {
    pub a: Chart,
    pub b: Chart,
    pub intruder: Intruder,
}

impl Scene {
    pub async fn of(site: &Site, model: TenancyModel) -> Self {
        let app = site.app(BootCheck::Dev);
        let (a, b) = (Chart::of(site, &app, model).await, Chart::of(site, &app, model).await);
        let intruder = Intruder::enter(site, &login(site, &app, &b.tenant).await).await;
        Self { a, b, intruder }
    }

    /// As B, with B's path: must be refused with this SQLSTATE.
    pub async fn refused(&self, purpose: &'static str, sql: &str, code: &str) {
        let refused = self.intruder.run_as(&self.b, purpose, sql).await.expect_err(sql);
        assert_eq!(refused.code, code, "{sql}: {}", refused.message);
        assert!(!self.a.shows_in(&refused.all) && self.a.rows_in(&refused.all) == 0, "{sql}: {}", refused.all);
    }

    /// As B, with B's path: what comes back names no row of A.
    pub async fn blind(&self, purpose: &'static str, sql: &str) -> String {
        let said = self
            .intruder
            .run_as(&self.b, purpose, sql)
            .await
            .unwrap_or_else(|refused| panic!("{sql}: {}", refused.message));
        assert_eq!(self.a.rows_in(&said), 0, "{sql}");
        said
    }

    async fn unchanged(&self, before: &str) {
        assert_eq!(before, self.a.fingerprint(&self.intruder.superuser).await, "a row of another tenant was changed");
    }
}

#[tokio::test]
async fn l01_without_a_binding_there_is_an_error() {
    let site = Site::shared().await;
    for model in TOGETHER {
        let scene = Scene::of(site, model).await;
        let canary = format!("select 1 from {}.patients", scene.b.schema());
        for turn in 0..100 {
            let (chart, other) = if turn % 2 == 0 { (&scene.a, &scene.b) } else { (&scene.b, &scene.a) };
            let said = scene.intruder.run_as(chart, "read", "select tenant_id from patients").await.unwrap();
            assert_eq!((chart.rows_in(&said), other.rows_in(&said)), (1, 0));
            if turn % 3 == 0 {
                scene.intruder.run_as(chart, "read", "select 1/0").await.unwrap_err();
            }
            for unbound in
                [canary.clone(), format!("begin; {canary}"), format!("begin read only; savepoint s; {canary}")]
            {
                let refused = scene.intruder.say(&unbound).await.unwrap_err();
                assert_eq!((refused.code.as_str(), refused.message.as_str()), ("42501", "tenant binding refused"));
            }
        }
    }
}

#[tokio::test]
async fn l03_a_statement_prepared_once_follows_the_schema() {
    let site = Site::shared().await;
    let scene = Scene::of(site, TenancyModel::Schema).await;
    let session = &scene.intruder.session;
    let head = async |chart: &Chart| {
        let bind = scene.intruder.bind(&Ticket::of(chart.tenant.id, "read"));
        session
            .batch_execute(&format!("begin; set local search_path = {}, pg_temp; {bind}", chart.schema()))
            .await
            .unwrap();
    };
    head(&scene.a).await;
    let narrow = session.prepare("select tableoid::regclass::text, id::text from patients").await.unwrap();
    let all = session.prepare("select * from patients").await.unwrap();
    session.batch_execute("commit").await.unwrap();
    let mut changed = 0;
    for turn in 0..200 {
        let chart = if turn % 2 == 0 { &scene.a } else { &scene.b };
        if turn == 100 {
            // From here on the two tables differ in shape.
            scene
                .intruder
                .superuser
                .batch_execute(&format!("alter table {}.patients add column extra text", scene.b.schema()))
                .await
                .unwrap();
        }
        head(chart).await;
        let rows = session.query(&narrow, &[]).await.unwrap();
        let seen: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(seen, [("patients".to_owned(), chart.patient.to_string())], "turn {turn}");
        match session.query(&all, &[]).await {
            Ok(rows) => assert_eq!(rows.len(), 1),
            Err(error) => {
                assert_eq!(error.as_db_error().unwrap().message(), "cached plan must not change result type");
                changed += 1;
            }
        }
        session.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(changed, 50, "a changed shape is an error, never another table's row");

    // The guard's own way, with diesel's statement cache and one session for both.
    let mut settings = site.server_settings();
    settings.database.backends = 1;
    let app = cordon::app::App::new(settings, BootCheck::Dev).unwrap();
    for turn in 0..20 {
        let chart = if turn % 2 == 0 { &scene.a } else { &scene.b };
        let tx = app
            .guards
            .work(chart.tenant.id, &actor(chart.tenant.id, "clinician"), TxKind::Read, RequestId::new())
            .await
            .unwrap();
        let ids: Vec<Uuid> = tx.load(patients::table.select(patients::id)).await.unwrap();
        assert_eq!(ids, [chart.patient]);
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn l07_settings_prove_nothing() {
    let site = Site::shared().await;
    for model in TOGETHER {
        let scene = Scene::of(site, model).await;
        let (a, home) = (scene.a.tenant.id, scene.a.schema());
        let theirs = scene.intruder.ticket(&Ticket::of(a, "read"));
        let all = TABLES.map(|(table, columns)| format!("select {columns} from {home}.{table}"));
        for setting in [
            format!("select set_config('app.current_tenant', '{a}', true)"),
            format!(
                "set local app.current_tenant = '{a}'; select set_config('app.current_user', '{}', true)",
                scene.a.staff
            ),
            format!("set app.current_tenant = '{a}'"),
            format!("set local search_path = {home}, cordon, pg_catalog"),
            "set local session_replication_role = origin".into(),
            "set local check_function_bodies = off; set local default_transaction_isolation = 'serializable'".into(),
        ] {
            for read in &all {
                let outcome = scene.intruder.run_as(&scene.b, "read", &format!("{setting}; {read}")).await;
                match outcome {
                    Ok(said) => assert_eq!(
                        said.lines()
                            .filter(|line| line.contains('\t'))
                            .map(|line| scene.a.rows_in(line))
                            .sum::<usize>(),
                        0,
                        "{setting}"
                    ),
                    Err(refused) => assert_eq!(refused.code, "42501", "{setting}: {}", refused.message),
                }
            }
        }
        for setting in [
            format!("set local app.claims = '{theirs}'"),
            format!("select set_config('app.claims', '{theirs}', false)"),
            "set local app.binding = 'planted'".into(),
            "set local app.binding = ''".into(),
            "reset app.claims".into(),
        ] {
            scene.refused("read", &format!("{setting}; select 1 from patients"), "42501").await;
            scene
                .refused(
                    "write",
                    &format!("{setting}; insert into note_types (tenant_id, code, display) values ('{a}', 'x', 'x')"),
                    "42501",
                )
                .await;
        }
        // Off, row security refuses; another role cannot be had.
        for attempt in [
            "set local row_security = off; select 1 from patients",
            "set role cordon_owner",
            "set role cordon_guard",
            "set session authorization postgres",
        ] {
            scene.refused("read", attempt, "42501").await;
        }
        // What outlives the transaction binds no other.
        let bind = scene.intruder.bind(&Ticket::of(scene.b.tenant.id, "read"));
        let keep = "select set_config(n, current_setting(n), false) from unnest('{app.claims,app.binding}'::text[]) n";
        scene.intruder.run(scene.b.schema(), &bind, keep).await.unwrap();
        assert_eq!(scene.intruder.run(scene.b.schema(), "", "select 1 from patients").await.unwrap_err().code, "42501");
    }
}

#[tokio::test]
async fn l08_generic_plans_follow_the_binding() {
    let site = Site::shared().await;
    for model in TOGETHER {
        let scene = Scene::of(site, model).await;
        let forms = [
            "select id from patients",
            "with x as (select * from patients) select id from x",
            "with x as materialized (select * from patients) select id from x",
            "select p.id from patients p where exists (select from encounters e where e.patient_id = p.id)",
            "select (select max(id::text) from patients)",
            "select id from (select * from patients offset 0) s",
            "select p.id from patients p where p.tenant_id = cordon.current_tenant()",
            "select p.id from generate_series(1, (select count(*)::int from patients)) g, lateral (select id from patients limit 1) p",
            "select id from patients where tenant_id = (select cordon.current_tenant()) union all select patient_id from encounters",
        ];
        let session = &scene.intruder.session;
        let head = async |chart: &Chart| {
            let bind = scene.intruder.bind(&Ticket::of(chart.tenant.id, "read"));
            session
                .batch_execute(&format!("begin; set local search_path = {}, pg_temp; {bind}", chart.schema()))
                .await
                .unwrap();
        };
        for mode in ["force_generic_plan", "auto"] {
            scene.intruder.say(&format!("set plan_cache_mode = {mode}")).await.unwrap();
            for form in forms {
                head(&scene.a).await;
                let wrapped = format!("select string_agg(x::text, ' ') from ({form}) x");
                let statement = session.prepare(&wrapped).await.unwrap();
                let first: String = session.query_one(&statement, &[]).await.unwrap().get(0);
                session.batch_execute("commit").await.unwrap();
                assert!(first.contains(&scene.a.patient.to_string()), "{form}");
                for _ in 0..10 {
                    head(&scene.b).await;
                    let said: String = session.query_one(&statement, &[]).await.unwrap().get(0);
                    session.batch_execute("commit").await.unwrap();
                    assert!(
                        said.contains(&scene.b.patient.to_string()) && !said.contains(&scene.a.patient.to_string()),
                        "{form}"
                    );
                }
                // With the path, because tests beside this one change tables, and the statement is then read anew.
                session
                    .batch_execute(&format!("begin; set local search_path = {}, pg_temp", scene.a.schema()))
                    .await
                    .unwrap();
                let refused = session.query(&statement, &[]).await.unwrap_err();
                session.batch_execute("rollback").await.unwrap();
                assert_eq!(refused.code().unwrap().code(), "42501", "{form}");
            }
        }
    }
}

#[tokio::test]
async fn l36_a_session_with_something_planted_is_not_bound() {
    let site = Site::shared().await;
    for model in TOGETHER {
        for (planted, cleared) in [
            ("prepare planted as select 1", "deallocate planted"),
            ("declare planted cursor with hold for select id from patients", "close planted"),
        ] {
            let scene = Scene::of(site, model).await;
            scene.intruder.run_as(&scene.b, "read", planted).await.unwrap();
            let refused = scene.intruder.run_as(&scene.a, "read", "select id from patients").await.unwrap_err();
            assert_eq!((refused.code.as_str(), refused.message.as_str()), ("42501", "binding refused"), "{planted}");
            scene.intruder.say(cleared).await.unwrap();
            scene.intruder.run_as(&scene.a, "read", "select id from patients").await.unwrap();
        }
    }
}

#[tokio::test]
async fn l10_every_command_has_its_policy() {
    let site = Site::shared().await;
    for model in TOGETHER {
        let scene = Scene::of(site, model).await;
        let before = scene.a.fingerprint(&scene.intruder.superuser).await;
        let (a, b, home) = (scene.a.tenant.id, scene.b.tenant.id, scene.a.schema());
        let merge = |when: &str| {
            format!(
                "merge into {home}.patients p using (select '{a}'::uuid t, '{}'::uuid i) x on p.tenant_id = x.t and p.id = x.i {when}",
                scene.a.patient
            )
        };
        let insert =
            merge(&format!("when not matched then insert (tenant_id, id) values ('{a}', '{}')", Uuid::now_v7()));
        for command in [
            insert.as_str(),
            &format!("insert into {home}.patients (tenant_id, id) values ('{a}', '{}')", Uuid::now_v7()),
            &format!(
                "insert into {home}.patients (tenant_id, id) values ('{a}', '{}') on conflict do nothing",
                scene.a.patient
            ),
            &format!("delete from {home}.patients"),
            &format!("truncate {home}.patients"),
            &format!("copy {home}.patients (tenant_id, id) from stdin"),
        ] {
            let refused = scene.intruder.run_as(&scene.b, "import", command).await.unwrap_err();
            assert!(["42501", "0A000"].contains(&refused.code.as_str()), "{command}: {}", refused.message);
        }
        for command in [
            merge("when matched then update set sex = 'OTHER'"),
            format!("update {home}.patients set sex = 'OTHER' where tenant_id <> '{b}'"),
            format!(
                "update {home}.patients p set sex = 'OTHER' from {home}.encounters e where e.patient_id = p.id and p.tenant_id = '{a}' returning p.*"
            ),
            format!("select * from {home}.patients where tenant_id = '{a}' for update"),
            format!("table {home}.clinical_notes"),
        ] {
            scene.blind("import", &command).await;
        }
        for command in [
            "update patients set sex = 'OTHER'",
            "insert into note_types (tenant_id, code, display) values (cordon.current_tenant(), 'x', 'x')",
        ] {
            scene.refused("read", command, "42501").await;
        }
        scene.unchanged(&before).await;
    }
}

#[tokio::test]
async fn l11_upserts_meet_no_other_tenants_row() {
    let site = Site::shared().await;
    for model in TOGETHER {
        let scene = Scene::of(site, model).await;
        let superuser = &scene.intruder.superuser;
        let before = scene.a.fingerprint(superuser).await;
        let (a, b, home) = (scene.a.tenant.id, scene.b.tenant.id, scene.a.schema());
        let key = superuser
            .query_one(
                &format!("select encode(source_key, 'hex') from {home}.patients where id = '{}'", scene.a.patient),
                &[],
            )
            .await
            .unwrap()
            .get::<_, String>(0);
        // The same natural key, in one's own tenant: a plain insert.
        let mine = format!(
            "insert into patients (tenant_id, id, source_key) values ('{b}', '{}', '\\x{key}')",
            Uuid::now_v7()
        );
        let said = scene
            .blind(
                "import",
                &format!("{mine} on conflict (tenant_id, source_key) do update set sex = 'OTHER' returning sex"),
            )
            .await;
        assert!(said.contains("UNKNOWN"), "inserted, not updated: {said}");
        scene
            .blind(
                "import",
                &format!(
                    "insert into patients (tenant_id, id) values ('{b}', '{}') on conflict do nothing",
                    scene.a.patient
                ),
            )
            .await;
        // In the other's: refused alike whether it collides or not.
        for clause in [
            "",
            "on conflict do nothing",
            "on conflict (tenant_id, id) do update set sex = 'OTHER'",
            "on conflict (tenant_id, source_key) do update set sex = excluded.sex returning *",
        ] {
            let mut said = Vec::new();
            for (id, key) in [(scene.a.patient, key.as_str()), (Uuid::now_v7(), "00")] {
                let insert = format!(
                    "insert into {home}.patients (tenant_id, id, source_key) values ('{a}', '{id}', '\\x{key}') {clause}"
                );
                let refused = scene.intruder.run_as(&scene.b, "import", &insert).await.unwrap_err();
                assert_eq!(refused.code, "42501");
                said.push(refused.message);
            }
            assert_eq!(said[0], said[1], "{clause}");
        }
        scene.unchanged(&before).await;
    }
}

#[tokio::test]
async fn l16_a_foreign_parent_is_like_none() {
    let site = Site::shared().await;
    for model in TOGETHER {
        let scene = Scene::of(site, model).await;
        let (b, a, new) = (scene.b.tenant.id, &scene.a, Uuid::now_v7());
        let cases = [
            (
                a.patient,
                "insert into encounters (tenant_id, id, patient_id, status, ordered_at) values ('{b}', '{new}', '{id}', 'PLANNED', now())",
            ),
            (
                a.patient,
                "insert into patient_identifiers (tenant_id, id, patient_id, position, system, exclusive, value_sealed, value_hash) values ('{b}', '{new}', '{id}', 0, 's', false, '', '')",
            ),
            (a.patient, "insert into patient_terms (tenant_id, patient_id, terms) values ('{b}', '{id}', '{}')"),
            (
                a.note,
                "insert into note_versions (tenant_id, id, note_id, number, body_sealed) values ('{b}', '{new}', '{id}', 1, '')",
            ),
            (
                a.staff,
                "insert into note_versions (tenant_id, id, note_id, number, author_id, body_sealed) values ('{b}', '{new}', '{own}', 2, '{id}', '')",
            ),
        ];
        for (foreign, sql) in cases {
            let mut said = Vec::new();
            for id in [foreign, Uuid::now_v7()] {
                let sql = sql
                    .replace("{b}", &b.to_string())
                    .replace("{new}", &new.to_string())
                    .replace("{id}", &id.to_string());
                let sql = sql.replace("{own}", &scene.b.note.to_string());
                let refused = scene.intruder.run_as(&scene.b, "import", &sql).await.unwrap_err();
                assert_eq!(refused.code, "23503", "{sql}: {}", refused.message);
                said.push(refused.all.replace(&id.to_string(), "ID"));
            }
            assert_eq!(said[0], said[1], "{sql}");
        }
    }
}

/// What nobody signed does not become what a signed note says, and nobody is made its signer afterwards.
#[tokio::test]
async fn a_signed_note_is_not_rewritten() {
    let site = Site::shared().await;
    for model in TOGETHER {
        let scene = Scene::of(site, model).await;
        let Chart { note: signed, staff, patient, .. } = scene.b;
        let waiting = Uuid::now_v7();
        let version = |note: Uuid, number: i32| {
            let id = Uuid::now_v7();
            format!(
                "insert into note_versions (id, note_id, number, body_sealed) values ('{id}', '{note}', {number}, '\\x00')"
            )
        };
        let signer = |note: Uuid| format!("insert into note_signers (note_id, staff_id) values ('{note}', '{staff}')");
        let drafted = format!(
            "insert into clinical_notes (id, patient_id, type_code, authored_at) values ('{waiting}', '{patient}', '11506-3', now()); {}; {}",
            version(waiting, 1),
            signer(waiting)
        );
        scene.blind("write", &drafted).await;
        scene.blind("write", &format!("update clinical_notes set status = 'UNCOSIGNED' where id = '{waiting}'")).await;
        let before = scene.b.fingerprint(&scene.intruder.superuser).await;
        for note in [signed, waiting] {
            let text = version(note, 99);
            for set in [
                "status = 'AMENDED', current_version = 99",
                "status = 'SIGNED', current_version = 99",
                "status = 'RETRACTED', current_version = 99",
                "current_version = 99",
                "status = 'AMENDED'",
                "status = 'RETRACTED'",
                "status = 'DISCARDED'",
                "status = 'DRAFT'",
                "status = 'SIGNED', authored_at = now()",
                "signed_at = now()",
            ] {
                scene
                    .refused("write", &format!("{text}; update clinical_notes set {set} where id = '{note}'"), "42501")
                    .await;
            }
        }
        scene.refused("write", &signer(signed), "42501").await;
        assert_eq!(before, scene.b.fingerprint(&scene.intruder.superuser).await);
        // The cosigner's step is there.
        scene.blind("write", &format!("update clinical_notes set status = 'SIGNED' where id = '{waiting}'")).await;
        scene
            .refused(
                "write",
                &format!("update clinical_notes set status = 'UNCOSIGNED' where id = '{waiting}'"),
                "42501",
            )
            .await;
    }
}

#[tokio::test]
async fn l24_what_the_database_says_stays_inside() {
    let site = Site::shared().await;
    let mut settings = site.server_settings();
    settings.database.statement_timeout_ms = 200;
    let app = cordon::app::App::new(settings, BootCheck::Dev).unwrap();
    let chart = Chart::of(site, &app, TenancyModel::Shared).await;
    let (tenant, patient) = (chart.tenant.id, chart.patient);
    for sql in [
        "select 1/0".to_owned(),
        "select 'canary-7f3a'::int".into(),
        "select * from canary_7f3a".into(),
        "selec canary_7f3a".into(),
        "select pg_sleep(5), 'canary-7f3a'".into(),
        format!("insert into patients (tenant_id, id) values ('{tenant}', '{patient}')"),
        format!("insert into patients (tenant_id, id, sex) values ('{tenant}', '{}', 'canary-7f3a')", Uuid::now_v7()),
        format!("insert into staff (tenant_id, id, name) values ('{tenant}', '{}', 'canary-7f3a')", Uuid::now_v7()),
        format!("insert into note_types (tenant_id, code) values ('{tenant}', 'canary-7f3a')"),
        format!(
            "insert into note_versions (tenant_id, id, note_id, number, body_sealed) values ('{tenant}', '{0}', '{0}', 1, 'canary-7f3a')",
            Uuid::now_v7()
        ),
        format!("update note_versions set number = 7 where id = '{}'", chart.version),
        "set local transaction isolation level serializable".into(),
        "select pg_read_file('canary-7f3a')".into(),
        "delete from patients".into(),
    ] {
        let tx = app.guards.work(tenant, &actor(tenant, "clinician"), TxKind::Import, RequestId::new()).await.unwrap();
        let error = tx.execute(sql_query(&sql)).await.expect_err(&sql);
        let said = format!("{error} {error:?} {}", error.code()).to_lowercase();
        for inside in [
            "canary",
            "patients",
            "staff",
            "note_",
            "constraint",
            "pkey",
            "select",
            "permission",
            &patient.to_string(),
            &tenant.to_string(),
        ] {
            assert!(!said.contains(inside), "{sql}: {said}");
        }
        let _ = tx.rollback().await;
    }
}

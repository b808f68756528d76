//! State that one tenant's SQL leaves on a pooled session, and the next tenant's request on it: the right answer or a closed session.

use crate::intruder::{Chart, Intruder, Ticket, login};
use crate::site::{Site, actor};
use cordon::app::App;
use cordon::crypto::Sealed;
use cordon::db::fault::classify;
use cordon::db::schema::tenant::patients;
use cordon::error::Error;
use cordon::guard::TxKind;
use cordon::ids::RequestId;
use cordon::isolation::BootCheck;
use cordon::model::fields::PatientName;
use cordon::tenant::TenancyModel;
use diesel::{NullableExpressionMethods, QueryDsl};
use diesel_async::SimpleAsyncConnection;
use std::sync::Arc;
use uuid::Uuid;

/// An app that has one session for everyone.
fn app_of_one(site: &Site) -> Arc<App> {
    let mut settings = site.server_settings();
    settings.database.backends = 1;
    App::new(settings, BootCheck::Dev).unwrap()
}

/// The names of a tenant's patients, as a request reads them.
async fn names(app: &App, chart: &Chart) -> Result<Vec<(Uuid, String)>, Error> {
    let tenant = chart.tenant.id;
    let tx = app.guards.work(tenant, &actor(tenant, "clinician"), TxKind::Read, RequestId::new()).await?;
    let rows = patients::table.select((patients::id, patients::name_sealed.assume_not_null()));
    let rows: Vec<(Uuid, Sealed<PatientName>)> = tx.load(rows).await?;
    let opened = rows.iter().map(|(id, name)| Ok((*id, tx.keys().open(*id, name)?.text))).collect();
    tx.commit().await?;
    opened
}

/// B's SQL on a session of the server's pool, bound to B, committed, and given back as a request would.
async fn plant(site: &Site, app: &App, chart: &Chart, sql: &str) -> Result<(), Error> {
    let session = app.router.checkout(chart.tenant.id, chart.placement()).await?;
    let mut intruder = Intruder::enter(site, &login(site, app, &chart.tenant).await).await;
    intruder.pid = session.pid();
    let bind = intruder.bind(&Ticket::of(chart.tenant.id, "write"));
    session.begins();
    for message in [&format!("begin; set local search_path = {}, pg_temp; {bind}", chart.schema()), sql, "commit"] {
        (&mut session.pg()).batch_execute(message).await.map_err(|error| classify(&error).error)?;
    }
    session.ended();
    Ok(())
}

#[tokio::test]
async fn l36_what_is_planted_on_a_session_misleads_nobody() {
    let site = Site::shared().await;
    for model in [TenancyModel::Shared, TenancyModel::Schema] {
        let before = site.app(BootCheck::Dev);
        let (a, b) = (Chart::of(site, &before, model).await, Chart::of(site, &before, model).await);
        let right = names(&before, &a).await.unwrap();
        assert_eq!((right.len(), right[0].0), (1, a.patient));
        let claims =
            "select set_config(n, current_setting(n), false) from unnest('{app.claims,app.binding}'::text[]) n";
        for planted in [
            prepared(site, &b).await.as_str(),
            "declare planted cursor with hold for select id from patients",
            "set standard_conforming_strings = off; set backslash_quote = on; set escape_string_warning = off",
            "set session characteristics as transaction isolation level serializable, read only",
            "set default_transaction_read_only = on; set default_transaction_isolation = 'serializable'",
            "set row_security = off",
            "set statement_timeout = 50; set lock_timeout = 1; set idle_in_transaction_session_timeout = 200",
            "set client_encoding = latin1; set timezone = 'Pacific/Kiritimati'; set datestyle = 'SQL, DMY'; set intervalstyle = 'iso_8601'",
            "set bytea_output = escape; set extra_float_digits = -15; set array_nulls = off; set transform_null_equals = on",
            "set search_path = cordon, shared, pg_catalog; set quote_all_identifiers = on",
            "set search_path = pg_catalog; set plan_cache_mode = force_generic_plan; set synchronous_commit = off",
            "set enable_seqscan = off; set enable_indexscan = off; set enable_bitmapscan = off; set work_mem = '64kB'",
            "set role none; reset session authorization",
            "listen cordon_catalog; notify cordon_catalog, 'planted'",
            claims,
            "select set_config('app.claims', 'v1.1.x', false)",
            "select set_config('app.current_tenant', 'planted', false)",
            "lock table patients in access share mode",
            "discard plans; discard sequences",
            "deallocate all",
        ] {
            // A session on which nothing of A's is prepared yet.
            let app = app_of_one(site);
            plant(site, &app, &b, planted).await.unwrap_or_else(|error| panic!("{planted}: {error:?}"));
            let mut refused = 0;
            // Right at once, or a closed session first.
            loop {
                match names(&app, &a).await {
                    Ok(rows) => break assert_eq!(rows, right, "{planted}"),
                    Err(error) => {
                        refused += 1;
                        assert!(refused < 3, "{}: {error:?}", &planted[..20]);
                    }
                }
            }
            assert!(refused > 0 || !planted.starts_with("prepare"), "the driver took one of the names");
            assert_eq!(names(&app, &b).await.unwrap()[0].0, b.patient, "{planted}");
        }
        let app = app_of_one(site);
        for refused in [
            "create temp table patients (id uuid)",
            "do $$ begin end $$",
            "discard all",
            "prepare transaction 'planted'",
            "begin; commit; begin",
        ] {
            let _ = plant(site, &app, &b, refused).await;
            let _ = names(&app, &a).await;
            assert_eq!(names(&app, &a).await.unwrap(), right, "{refused}");
        }
    }
}

/// PREPAREs under the names that the driver will use next: it numbers its statements over the whole process.
async fn prepared(site: &Site, chart: &Chart) -> String {
    let session = site.superuser("cordon_data").await;
    let _kept = session.prepare("select 'how far is the count?'").await.unwrap();
    let name: String = session
        .query_one("select name from pg_prepared_statements where statement like '%how far is%' limit 1", &[])
        .await
        .unwrap()
        .get(0);
    let next: u32 = name.strip_prefix('s').expect("statements are named s and a number").parse().unwrap();
    (next..next + 2_000).map(|n| format!("prepare s{n} as select '{}'::uuid, '\\x00'::bytea;", chart.patient)).collect()
}

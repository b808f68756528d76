//! State that SQL of one tenant leaves on a pooled session. The next tenant's request on that session gets the right
//! data, or the session is closed.

use crate::support::intruder::{Intruder, TicketFields, login};
use crate::support::marked_chart::MarkedChart;
use crate::support::site::{Site, actor};
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

/// An app whose pool has a single session.
fn app_with_one_session(site: &Site) -> Arc<App> {
    let mut settings = site.server_settings();
    settings.database.backends = 1;
    App::new(settings, BootCheck::Dev).unwrap()
}

/// Reads the names of a tenant's patients through the guard.
async fn patient_names(app: &App, chart: &MarkedChart) -> Result<Vec<(Uuid, String)>, Error> {
    let tenant = chart.tenant.id;
    let tx = app.guards.begin_operation(tenant, &actor(tenant, "clinician"), TxKind::Read, RequestId::new()).await?;
    let rows = patients::table.select((patients::id, patients::name_sealed.assume_not_null()));
    let rows: Vec<(Uuid, Sealed<PatientName>)> = tx.load(rows).await?;
    let opened = rows.iter().map(|(id, name)| Ok((*id, tx.keys().open(*id, name)?.text))).collect();
    tx.commit().await?;
    opened
}

/// Runs SQL of a tenant on a session of the pool, bound to the tenant. The transaction is committed and the session
/// returned to the pool.
async fn run_on_pooled_session(site: &Site, app: &App, chart: &MarkedChart, sql: &str) -> Result<(), Error> {
    let session = app.router.checkout(chart.tenant.id, chart.placement()).await?;
    let intruder = Intruder::connect(site, &login(site, app, &chart.tenant).await).await;
    let ticket = TicketFields::of(chart.tenant.id, "write");
    let bind = intruder.bind_other(&ticket, session.pid(), session.next_binding());
    session.transaction_started();
    for message in [&format!("begin; set local search_path = {}, pg_temp; {bind}", chart.schema()), sql, "commit"] {
        (&mut session.pg()).batch_execute(message).await.map_err(|error| classify(&error).error)?;
    }
    session.transaction_ended();
    Ok(())
}

#[tokio::test]
async fn l36_residual_session_state_does_not_affect_the_next_tenant() {
    let site = Site::shared().await;
    for model in [TenancyModel::Shared, TenancyModel::Schema] {
        let before = site.app(BootCheck::Dev);
        let (a, b) = (MarkedChart::of(site, &before, model).await, MarkedChart::of(site, &before, model).await);
        let expected = patient_names(&before, &a).await.unwrap();
        assert_eq!((expected.len(), expected[0].0), (1, a.patient));
        for residue in [
            prepare_next_names(site, &b).await.as_str(),
            "declare planted cursor with hold for select id from patients",
            "set standard_conforming_strings = off; set backslash_quote = on; set escape_string_warning = off",
            "set session characteristics as transaction isolation level serializable, read only",
            "set default_transaction_read_only = on; set default_transaction_isolation = 'serializable'",
            "set row_security = off",
            "set statement_timeout = 50; set lock_timeout = 1; set idle_in_transaction_session_timeout = 200",
            "set client_encoding = latin1; set timezone = 'Pacific/Kiritimati'; set datestyle = 'SQL, DMY'; set \
             intervalstyle = 'iso_8601'",
            "set bytea_output = escape; set extra_float_digits = -15; set array_nulls = off; set transform_null_equals \
             = on",
            "set search_path = cordon, shared, pg_catalog; set quote_all_identifiers = on",
            "set search_path = pg_catalog; set plan_cache_mode = force_generic_plan; set synchronous_commit = off",
            "set enable_seqscan = off; set enable_indexscan = off; set enable_bitmapscan = off; set work_mem = '64kB'",
            "set role none; reset session authorization",
            "listen cordon_catalog; notify cordon_catalog, 'planted'",
            "select set_config('app.current_tenant', 'planted', false)",
            "lock table patients in access share mode",
            "discard plans; discard sequences",
            "deallocate all",
        ] {
            // A new session, on which no statement of A is prepared yet.
            let app = app_with_one_session(site);
            run_on_pooled_session(site, &app, &b, residue).await.unwrap_or_else(|error| panic!("{residue}: {error:?}"));
            let mut refused = 0;
            // The first requests may fail because the session is closed. The first one that succeeds must be right.
            loop {
                match patient_names(&app, &a).await {
                    Ok(rows) => break assert_eq!(rows, expected, "{residue}"),
                    Err(error) => {
                        refused += 1;
                        assert!(refused < 3, "{}: {error:?}", &residue[..20]);
                    }
                }
            }
            assert!(refused > 0 || !residue.starts_with("prepare"), "the driver uses one of the prepared names");
            assert_eq!(patient_names(&app, &b).await.unwrap()[0].0, b.patient, "{residue}");
        }
        let app = app_with_one_session(site);
        for refused in [
            "create temp table patients (id uuid)",
            "do $$ begin end $$",
            "discard all",
            "prepare transaction 'planted'",
            "begin; commit; begin",
            "set backtrace_functions = 'planted'",
            "select set_config('backtrace_functions', current_setting('backtrace_functions'), false)",
        ] {
            let _ = run_on_pooled_session(site, &app, &b, refused).await;
            let _ = patient_names(&app, &a).await;
            assert_eq!(patient_names(&app, &a).await.unwrap(), expected, "{refused}");
        }
    }
}

/// Returns PREPARE statements with the names that the driver will use next. It numbers its statements over the whole
/// process.
async fn prepare_next_names(site: &Site, chart: &MarkedChart) -> String {
    let session = site.superuser("cordon_data").await;
    let _statement = session.prepare("select 'how far is the count?'").await.unwrap();
    let name: String = session
        .query_one("select name from pg_prepared_statements where statement like '%how far is%' limit 1", &[])
        .await
        .unwrap()
        .get(0);
    let next: u32 = name.strip_prefix('s').expect("statements are named s and a number").parse().unwrap();
    (next..next + 2_000).map(|n| format!("prepare s{n} as select '{}'::uuid, '\\x00'::bytea;", chart.patient)).collect()
}

//! L-34: the binding key of a database is in no plan, notice or log of PostgreSQL, neither when it is used nor when it
//! is created.

use crate::sql_attacks::TwoTenants;
use crate::support::intruder::{Intruder, TicketFields};
use crate::support::site::{Site, connect_session};
use crate::support::{cluster_of_own, run_dir};
use cordon::tenant::{TenancyModel, Tenant};
use futures_util::StreamExt;
use secrecy::ExposeSecret;
use std::pin::pin;
use std::time::Duration;
use tokio_postgres::AsyncMessage;

#[tokio::test]
async fn l34_plans_do_not_show_the_binding_key() {
    let site = Site::shared().await;
    let tenants = TwoTenants::create(site, TenancyModel::Shared).await;
    let app = site.app(cordon::isolation::BootCheck::Dev);
    let (session, mut connection) = crate::support::intruder::login(site, &app, &tenants.b.tenant)
        .await
        .connect(tokio_postgres::NoTls)
        .await
        .unwrap();
    let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = pin!(futures_util::stream::poll_fn(move |context| connection.poll_message(context)));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = send.send(format!("{notice:?}"));
            }
        }
    });
    let verbose_settings = "set client_min_messages = log; set debug_print_parse = on; set debug_print_rewritten = on; \
        set debug_print_plan = on; set debug_pretty_print = off; set plan_cache_mode = force_custom_plan";
    let intruder = Intruder::with_session(session, site.superuser("cordon_data").await).await;
    intruder.query(verbose_settings).await.unwrap();
    let mut notices = async || {
        let mut output = String::new();
        while let Ok(Some(notice)) = tokio::time::timeout(Duration::from_millis(300), receive.recv()).await {
            output += &notice;
        }
        output
    };
    for purpose in ["read", "import"] {
        let calls =
            "select cordon.has_role('auditor'), cordon.purpose(), cordon.claims(); select count(*) from patients";
        intruder.run_as(&tenants.b, purpose, calls).await.unwrap();
    }
    let write =
        format!("update patients set sex = 'MALE' where id = '{}'; select shared.audit('5b5d')", tenants.b.patient);
    intruder.run_as(&tenants.b, "import", &write).await.unwrap();
    let forged = intruder.arguments(&TicketFields::of(tenants.b.tenant.id, "read")).await.call("x");
    intruder.run(tenants.b.schema(), &forged, "select 1").await.unwrap_err();
    let output = notices().await;
    assert!(output.len() > 100_000 && output.contains("binding_keys"), "the plans of the functions are in the notices");
    let log = std::fs::read_to_string(run_dir().join("shared/log")).unwrap();
    for key in intruder.key() {
        assert!(!contains_key(&output, key), "the key is in a notice");
        assert!(!contains_key(&log, key), "the key is in the log");
    }
    // The search finds a key that is a constant in a plan.
    intruder.query(&format!("select length('\\x{}'::bytea)", "deadbeefcafe0102".repeat(8))).await.unwrap();
    assert!(contains_key(&notices().await, &[0xde, 0xad, 0xbe, 0xef, 0xca, 0xfe, 1, 2].repeat(8)));
}

/// The key is sent to PostgreSQL once, when the database is prepared. The server in this test logs all statements,
/// parameters and plans.
#[tokio::test]
async fn l34_the_log_does_not_show_the_binding_key_when_it_is_created() {
    let cluster = cluster_of_own("logs-all");
    let superuser = connect_session(&cluster.superuser_url("postgres").expose_secret().parse().unwrap()).await;
    let all = [
        "log_statement = 'all'",
        "log_min_duration_statement = 0",
        "log_error_verbosity = 'default'",
        "debug_print_plan = on",
    ];
    for setting in all {
        superuser.batch_execute(&format!("alter role all set {setting}")).await.unwrap();
    }
    let site = Site::create(&cluster, "logs-all-site").await;
    let Tenant { placement, .. } = site.tenant(TenancyModel::Database).await;
    let log = std::fs::read_to_string(run_dir().join("logs-all/log")).unwrap();
    assert!(
        log.matches("insert into cordon.binding_keys").count() >= 2
            && log.to_lowercase().contains("detail:  parameters:"),
        "statements and parameters are in the log"
    );
    for database in ["cordon_data", &placement.unwrap().database] {
        let keys =
            site.superuser(database).await.query_one("select ipad, opad from cordon.binding_keys", &[]).await.unwrap();
        for key in [0, 1].map(|column| keys.get::<_, Vec<u8>>(column)) {
            assert!(!contains_key(&log, &key), "{database}");
        }
    }
}

/// Whether `text` contains eight consecutive bytes of `key`, printed as a plan prints constants or in hexadecimal.
fn contains_key(text: &str, key: &[u8]) -> bool {
    key.windows(8).any(|part| {
        let signed: Vec<_> = part.iter().map(|byte| byte.cast_signed().to_string()).collect();
        text.contains(&format!(" {} ", signed.join(" "))) || text.contains(&cordon::audit::hex(part))
    }) && !key.is_empty()
}

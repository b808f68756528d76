//! Walls taken down one at a time, with the boot check off, in each tenancy model. An intruder in the victim's database
//! attacks the victim through the server's own login, bound to another tenant or not bound at all. No sensitive text is
//! disclosed, and no row of the victim changes. The test prints which walls stopped the attempts.

mod forgery;
mod walls;
mod writes;

use crate::support::intruder::{Intruder, SqlError, TicketFields, login};
use crate::support::marked_chart::{MarkedChart, TABLES};
use crate::support::site::{MODELS, Site, connect_session};
use cordon::app::App;
use cordon::cluster::Cluster;
use cordon::isolation::BootCheck;
use cordon::tenant::TenancyModel;
use std::collections::BTreeSet;
use std::sync::Arc;

use forgery::{assert_bindings_cannot_be_forged, assert_sealed_values_stay_in_place};
use walls::RESTORE_TRIGGERS;

/// An intruder in the victim's database, with the login that runs the victim's SQL, and a neighbour to be bound to.
struct Attack {
    model: TenancyModel,
    victim: MarkedChart,
    neighbour: MarkedChart,
    intruder: Intruder,
    login: String,
}

#[tokio::test]
async fn no_single_wall_down_discloses_or_changes_anything() {
    let cluster = Cluster::start(&crate::support::options("walls")).unwrap();
    let site = Site::create(&cluster, "walls-site").await;
    let app = site.app(BootCheck::Off);
    for model in MODELS {
        let attack = Attack::prepare(&site, &app, model).await;
        attack.assert_all_tables_are_attacked().await;
        for wall in attack.walls() {
            attack.intruder.superuser.batch_execute(&wall.down).await.unwrap();
            let (rows_seen, stopped_by) = attack.run().await;
            attack.intruder.superuser.batch_execute(&wall.up).await.unwrap();
            println!(
                "{:8} {:28} rows seen {rows_seen:3}  stopped by: {}",
                model.as_str(),
                wall.name,
                stopped_by.into_iter().collect::<Vec<_>>().join(", ")
            );
            assert!(
                rows_seen == 0 || wall.clear_columns,
                "{model}, {}: {rows_seen} rows of the other tenant were seen",
                wall.name
            );
        }
        let rows_seen = attack.run().await.0;
        assert_eq!(rows_seen, 0, "{model}: the walls stand again");
        assert_two_walls_down_allow_a_write(&attack).await;
        assert_bindings_cannot_be_forged(&attack).await;
        assert_sealed_values_stay_in_place(&attack, &site, &app).await;
    }
}

/// The login of a database tenant can connect to its own database only, and no other login can connect to that
/// database.
#[tokio::test]
async fn logins_connect_to_their_own_database_only() {
    let site = Site::shared().await;
    let app = site.app(BootCheck::Dev);
    let (own, other) = (
        MarkedChart::of(site, &app, TenancyModel::Database).await,
        MarkedChart::of(site, &app, TenancyModel::Database).await,
    );
    let shared = MarkedChart::of(site, &app, TenancyModel::Shared).await;
    for (from, to) in [(&own, &other), (&own, &shared), (&shared, &own)] {
        let mut config = login(site, &app, &from.tenant).await;
        drop(connect_session(&config).await);
        for database in [&to.placement().database, "cordon_control", "cordon_template", "postgres", "template1"] {
            let refused = config.dbname(database).connect(tokio_postgres::NoTls).await.err().expect("a refusal");
            assert_eq!(refused.code().unwrap().code(), "42501", "{database}: {refused}");
        }
    }
}

impl Attack {
    async fn prepare(site: &Site, app: &Arc<App>, model: TenancyModel) -> Self {
        let (victim, neighbour) = (MarkedChart::of(site, app, model).await, MarkedChart::of(site, app, model).await);
        let config = login(site, app, &victim.tenant).await;
        let intruder = Intruder::connect(site, &config).await;
        Self { model, login: config.get_user().unwrap().to_owned(), victim, neighbour, intruder }
    }

    /// Checks that `TABLES` lists all tables of the schema, and that the victim has a row in each.
    async fn assert_all_tables_are_attacked(&self) {
        let (home, superuser) = (self.victim.schema(), &self.intruder.superuser);
        let query = format!(
            "select relname::text from pg_class where relnamespace = '{home}'::regnamespace and relkind in ('r', 'p', \
             'v', 'm', 'f')
             and not relispartition and relname <> '__diesel_schema_migrations'"
        );
        let existing: BTreeSet<String> =
            superuser.query(&query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(
            existing,
            TABLES.iter().map(|(table, _)| (*table).to_owned()).collect(),
            "{}: the tables of {home}",
            self.model
        );
        for (table, _) in TABLES {
            let rows = format!("select count(*) from {home}.{table} where tenant_id = '{}'", self.victim.tenant.id);
            assert_ne!(
                superuser.query_one(&rows, &[]).await.unwrap().get::<_, i64>(0),
                0,
                "{}: no row in {table}",
                self.model
            );
        }
    }

    /// Runs every attempt, bound to the neighbour and unbound. Returns how many of the victim's rows were seen, and
    /// which walls stopped the other attempts.
    async fn run(&self) -> (usize, BTreeSet<String>) {
        let before = self.victim.fingerprint(&self.intruder.superuser).await;
        let (mut rows_seen, mut stopped) = (0, BTreeSet::new());
        for (table, columns) in TABLES {
            let read = format!("select {columns} from {}.{table}", self.victim.schema());
            for bound in [true, false] {
                let outcome = self.attempt(bound, "read", &read).await;
                assert!(
                    !outcome.as_ref().is_ok_and(|output| self.victim.leaks_into(output)),
                    "{read}: a sensitive text in clear"
                );
                let rows = outcome.as_ref().map_or(0, |output| self.victim.count_rows_in(output));
                rows_seen += rows;
                stopped.insert(if rows > 0 { "keys".into() } else { stopped_by(&outcome) });
            }
        }
        for write in self.write_attempts() {
            for bound in [true, false] {
                let outcome = self.attempt(bound, "import", &write).await;
                stopped.insert(stopped_by(&outcome));
                if let Err(refusal) = &outcome {
                    assert!(!self.victim.leaks_into(&refusal.full_text), "{write}: a sensitive text in clear");
                }
            }
        }
        assert_eq!(
            before,
            self.victim.fingerprint(&self.intruder.superuser).await,
            "{}: another tenant's row was changed",
            self.model
        );
        (rows_seen, stopped)
    }

    async fn attempt(&self, bound: bool, purpose: &'static str, sql: &str) -> Result<String, SqlError> {
        let bind = match bound {
            true => self.intruder.bind(&TicketFields::of(self.neighbour.tenant.id, purpose)).await,
            false => String::new(),
        };
        // The search path is the victim's schema in any case.
        self.intruder.run(self.victim.schema(), &bind, sql).await
    }
}

/// Returns which wall stopped an attempt, by the message of PostgreSQL.
fn stopped_by(outcome: &Result<String, SqlError>) -> String {
    let message = match outcome {
        Ok(_) => return "row security".into(),
        Err(refusal) => refusal.message.as_str(),
    };
    let known = [
        ("permission denied", "rights"),
        ("must be owner", "rights"),
        ("row-level security", "row security"),
        ("binding refused", "binding"),
        ("bound for reading", "binding"),
        ("placement changed", "fence"),
        ("violates", "relational keys"),
        (" on ", "triggers"),
        ("is refused", "structure"),
    ];
    let wall = known.iter().find(|(words, _)| message.contains(words)).map(|(_, wall)| *wall);
    wall.unwrap_or_else(|| panic!("an attempt failed for another reason: {message}")).into()
}

/// Checks that the attempts are effective: with both row security and triggers off, a row is changed.
async fn assert_two_walls_down_allow_a_write(attack: &Attack) {
    let home = attack.victim.schema();
    let superuser = &attack.intruder.superuser;
    let before = attack.victim.fingerprint(superuser).await;
    superuser
        .batch_execute(&format!(
            "alter table {home}.staff disable row level security; alter table {home}.staff disable \
            trigger user; grant update on {home}.staff to {}",
            attack.login
        ))
        .await
        .unwrap();
    attack
        .attempt(false, "write", &format!("update staff set name = 'planted' where id = '{}'", attack.victim.staff))
        .await
        .unwrap();
    assert_ne!(before, attack.victim.fingerprint(superuser).await);
    superuser
        .batch_execute(&format!(
            "alter table {home}.staff enable row level security; {}",
            RESTORE_TRIGGERS.replace("{t}", &format!("{home}.staff"))
        ))
        .await
        .unwrap();
}

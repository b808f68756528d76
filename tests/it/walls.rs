//! The walls taken down in turn, the boot check off, in each model: an intruder bound to tenant B and one bound to nobody attack tenant A
//! through the server's own login. What held is printed; never a planted word comes out, never a row of A is another afterwards.

use crate::intruder::{Chart, Intruder, Refusal, TABLES, Ticket, login};
use crate::site::{MODELS, Site, actor, open};
use cordon::app::App;
use cordon::cluster::Cluster;
use cordon::crypto::{Sealed, TenantKeys};
use cordon::db::schema::tenant::patients;
use cordon::error::Error;
use cordon::guard::TxKind;
use cordon::ids::RequestId;
use cordon::isolation::BootCheck;
use cordon::model::fields::{EncounterReason, NoteBody, NoteTitle, PatientName};
use cordon::tenant::TenancyModel;
use diesel::{ExpressionMethods, NullableExpressionMethods, QueryDsl};

use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// Tables that are enclosed: all but the audit log.
fn enclosed() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|(table, _)| *table).filter(|table| *table != "audit_log")
}

/// Functions that read the binding.
const PINNED: [&str; 6] =
    ["bind(text, text)", "claims()", "current_tenant()", "writing_tenant()", "purpose()", "has_role(text)"];

/// Puts a table's triggers up again.
const ENABLE: &str =
    "do $$ declare t name; begin for t in select tgname from pg_trigger where tgrelid = '{t}'::regclass and not tgisinternal
 loop execute format('alter table {t} enable always trigger %I', t); end loop; end $$";

/// One wall: how it is taken down and put up again, and whether what stands in clear beside sealed columns may be seen without it.
struct Wall {
    name: &'static str,
    down: String,
    up: String,
    clear_columns: bool,
}

/// Where an intruder stands: in the victim's database, under the login that runs the victim's SQL.
struct Place {
    model: TenancyModel,
    victim: Chart,
    neighbour: Chart,
    intruder: Intruder,
    login: String,
}

#[tokio::test]
async fn walls_taken_down_in_turn() {
    let cluster = Cluster::start(&crate::options("walls")).unwrap();
    let site = Site::make(&cluster, "walls-site").await;
    let app = site.app(BootCheck::Off);
    for model in MODELS {
        let place = Place::of(&site, &app, model).await;
        place.every_table_is_tried().await;
        for wall in place.walls() {
            place.intruder.superuser.batch_execute(&wall.down).await.unwrap();
            let (seen, held) = place.attack().await;
            place.intruder.superuser.batch_execute(&wall.up).await.unwrap();
            println!(
                "{:8} {:28} rows seen {seen:3}  held: {}",
                model.as_str(),
                wall.name,
                held.into_iter().collect::<Vec<_>>().join(", ")
            );
            assert!(
                seen == 0 || wall.clear_columns,
                "{model}, {}: {seen} rows of the other tenant were seen",
                wall.name
            );
        }
        let mended = place.attack().await.0;
        assert_eq!(mended, 0, "{model}: the walls stand again");
        two_walls_down_let_through(&place).await;
        bindings_are_not_forged(&place).await;
        keys_hold(&place, &site, &app).await;
    }
}

/// A database tenant's login enters its own database and no other, and nobody else's login enters there.
#[tokio::test]
async fn logins_stay_in_their_databases() {
    let site = Site::shared().await;
    let app = site.app(BootCheck::Dev);
    let (own, other) =
        (Chart::of(site, &app, TenancyModel::Database).await, Chart::of(site, &app, TenancyModel::Database).await);
    let shared = Chart::of(site, &app, TenancyModel::Shared).await;
    for (from, to) in [(&own, &other), (&own, &shared), (&shared, &own)] {
        let mut config = login(site, &app, &from.tenant).await;
        drop(open(&config).await);
        for database in [&to.placement().database, "cordon_control", "cordon_template", "postgres", "template1"] {
            let refused = config.dbname(database).connect(tokio_postgres::NoTls).await.err().expect("a refusal");
            assert_eq!(refused.code().unwrap().code(), "42501", "{database}: {refused}");
        }
    }
}

impl Place {
    async fn of(site: &Site, app: &Arc<App>, model: TenancyModel) -> Self {
        let (victim, neighbour) = (Chart::of(site, app, model).await, Chart::of(site, app, model).await);
        let config = login(site, app, &victim.tenant).await;
        let intruder = Intruder::enter(site, &config).await;
        Self { model, login: config.get_user().unwrap().to_owned(), victim, neighbour, intruder }
    }

    /// The tables that are attacked are those there are, and each has a row of the victim's to lose.
    async fn every_table_is_tried(&self) {
        let (home, superuser) = (self.victim.schema(), &self.intruder.superuser);
        let there = format!(
            "select relname::text from pg_class where relnamespace = '{home}'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
             and not relispartition and relname <> '__diesel_schema_migrations'"
        );
        let there: BTreeSet<String> =
            superuser.query(&there, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(
            there,
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

    fn walls(&self) -> Vec<Wall> {
        let (home, login) = (self.victim.schema(), &self.login);
        let each = |text: &str| -> String {
            enclosed()
                .map(|table| text.replace("{t}", &format!("{home}.{table}")).replace("{table}", table) + ";")
                .collect()
        };
        let functions =
            |text: &str| -> String { PINNED.iter().map(|f| format!("alter function cordon.{f} {text};")).collect() };
        let wall = |name, clear_columns, down: String, up: String| Wall { name, down, up, clear_columns };
        let policy = "using (tenant_id = (select cordon.current_tenant())) with check (tenant_id = (select cordon.writing_tenant()))";
        let mut walls = vec![
            wall("none", false, String::new(), String::new()),
            wall(
                "policy dropped",
                false,
                each("drop policy tenant on {t}"),
                each(&format!("create policy tenant on {{t}} {policy}")),
            ),
            wall(
                "policy opened",
                true,
                each("create policy open on {t} using (true) with check (true)"),
                each("drop policy open on {t}"),
            ),
            wall(
                "row security not forced",
                false,
                each("alter table {t} no force row level security"),
                each("alter table {t} force row level security"),
            ),
            wall(
                "row security disabled",
                true,
                each("alter table {t} disable row level security"),
                each("alter table {t} enable row level security"),
            ),
            wall(
                "functions unpinned",
                false,
                functions("reset search_path"),
                functions("set search_path = pg_catalog, pg_temp"),
            ),
            wall("triggers disabled", false, each("alter table {t} disable trigger user"), each(ENABLE)),
            wall(
                "login bypasses row security",
                true,
                format!("alter role {login} bypassrls"),
                format!("alter role {login} nobypassrls"),
            ),
            wall(
                "login is superuser",
                true,
                format!("alter role {login} superuser"),
                format!("alter role {login} nosuperuser"),
            ),
        ];
        if self.model != TenancyModel::Shared {
            let (drop, id) = (each("alter table {t} drop constraint {table}_pin"), self.victim.tenant.id);
            walls.push(wall(
                "pins dropped",
                false,
                drop,
                each(&format!("alter table {{t}} add constraint {{table}}_pin check (tenant_id = '{id}')")),
            ));
        }
        // Last: to give tables back is to lose the login's grants on them.
        let grants = each(&format!("alter table {{t}} owner to cordon_owner; grant select on {{t}} to {login}"));
        walls.push(wall("login owns the tables", false, each(&format!("alter table {{t}} owner to {login}")), grants));
        walls
    }

    /// Every attempt, bound to the neighbour and bound to nobody: how many foreign rows were seen at most, and what stopped the rest.
    async fn attack(&self) -> (usize, BTreeSet<String>) {
        let before = self.victim.fingerprint(&self.intruder.superuser).await;
        let (mut seen, mut held) = (0, BTreeSet::new());
        for (table, columns) in TABLES {
            let read = format!("select {columns} from {}.{table}", self.victim.schema());
            for bound in [true, false] {
                let outcome = self.attempt(bound, "read", &read).await;
                assert!(!outcome.as_ref().is_ok_and(|said| self.victim.shows_in(said)), "{read}: a word in clear");
                let rows = outcome.as_ref().map_or(0, |said| self.victim.rows_in(said));
                seen += rows;
                held.insert(if rows > 0 { "keys".into() } else { stopped_by(&outcome) });
            }
        }
        for change in self.changes() {
            for bound in [true, false] {
                let outcome = self.attempt(bound, "import", &change).await;
                held.insert(stopped_by(&outcome));
                if let Err(refusal) = &outcome {
                    assert!(!self.victim.shows_in(&refusal.all), "{change}: a word in clear");
                }
            }
        }
        assert_eq!(
            before,
            self.victim.fingerprint(&self.intruder.superuser).await,
            "{}: another tenant's row was changed",
            self.model
        );
        (seen, held)
    }

    async fn attempt(&self, bound: bool, purpose: &'static str, sql: &str) -> Result<String, Refusal> {
        let bind = match bound {
            true => self.intruder.bind(&Ticket::of(self.neighbour.tenant.id, purpose)),
            false => String::new(),
        };
        // The wrong path on top: the victim's schema, whoever is bound.
        self.intruder.run(self.victim.schema(), &bind, sql).await
    }

    /// Ways to change, add, move, remove or lay open what is the victim's.
    fn changes(&self) -> Vec<String> {
        let (a, b, home) = (self.victim.tenant.id, self.neighbour.tenant.id, self.victim.schema());
        let (patient, note, version, new) =
            (self.victim.patient, self.victim.note, self.victim.version, Uuid::now_v7());
        let mut all = Vec::new();
        for (table, _) in TABLES {
            let time = if table == "audit_log" { "recorded_at" } else { "created_at" };
            all.extend([
                format!("update {table} set {time} = now() where tenant_id <> '{b}'"),
                format!("update {table} set {time} = now()"),
                format!("update {table} set tenant_id = '{b}' where tenant_id = '{a}'"),
                format!("update {table} set tenant_id = '{a}' where tenant_id = '{b}'"),
                format!("delete from {table}"),
                format!("truncate {table} cascade"),
                format!("alter table {table} disable row level security"),
                format!("alter table {table} disable trigger all"),
                format!("alter table {table} drop constraint if exists {table}_pin"),
                format!("drop policy tenant on {table}"),
                format!("grant all on {table} to public"),
                format!("create rule r as on insert to {table} do instead nothing"),
            ]);
        }
        all.extend([
            format!("insert into staff (tenant_id, id, issuer, subject) values ('{a}', '{new}', 'planted', 'planted')"),
            format!("insert into patients (tenant_id, id) values ('{a}', '{new}')"),
            format!("insert into note_types (tenant_id, code, display) values ('{a}', 'planted', 'planted')"),
            format!("insert into note_types (tenant_id, code, display) values ('{a}', '11506-3', 'planted') on conflict (tenant_id, code) do update set display = 'planted'"),
            format!("insert into encounters (tenant_id, id, patient_id, status, ordered_at) values ('{a}', '{new}', '{patient}', 'PLANNED', now())"),
            format!("insert into note_versions (tenant_id, id, note_id, number, body_sealed) values ('{a}', '{new}', '{note}', 2, '\\x00')"),
            format!("insert into note_signers (tenant_id, note_id, staff_id) values ('{a}', '{note}', '{new}')"),
            format!("insert into idempotency_keys (tenant_id, id, principal_id, key_hash, body_hash) values ('{a}', '{new}', '{new}', '', '')"),
            format!("merge into patients p using (select '{a}'::uuid t) x on p.tenant_id = x.t when matched then update set sex = 'OTHER'"),
            format!("select * from note_versions where id = '{version}' for update"),
            format!("update patients set sex = 'OTHER' where id = '{patient}' returning *"),
            "create temp table patients (tenant_id uuid)".into(),
            "create schema planted".into(),
            format!("create function {home}.sha256(bytea) returns bytea language sql return $1"),
            format!("create function {home}.now() returns timestamptz language internal as 'now'"),
        ]);
        all
    }
}

/// What stopped an attempt, from what PostgreSQL said.
fn stopped_by(outcome: &Result<String, Refusal>) -> String {
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
    let held = known.iter().find(|(words, _)| message.contains(words)).map(|(_, wall)| *wall);
    held.unwrap_or_else(|| panic!("an attempt failed by accident: {message}")).into()
}

/// The attempts are real: with row security and triggers both off, a row is changed.
async fn two_walls_down_let_through(place: &Place) {
    let home = place.victim.schema();
    let superuser = &place.intruder.superuser;
    let before = place.victim.fingerprint(superuser).await;
    superuser
        .batch_execute(&format!("alter table {home}.staff disable row level security; alter table {home}.staff disable trigger user; grant update on {home}.staff to {}", place.login))
        .await
        .unwrap();
    place
        .attempt(false, "write", &format!("update staff set name = 'planted' where id = '{}'", place.victim.staff))
        .await
        .unwrap();
    assert_ne!(before, place.victim.fingerprint(superuser).await);
    superuser
        .batch_execute(&format!(
            "alter table {home}.staff enable row level security; {}",
            ENABLE.replace("{t}", &format!("{home}.staff"))
        ))
        .await
        .unwrap();
}

/// Tickets with a wrong key, tampered with, of another backend, past their time; settings copied from a bound transaction.
async fn bindings_are_not_forged(place: &Place) {
    let (intruder, victim) = (&place.intruder, &place.victim);
    let genuine = Ticket::of(victim.tenant.id, "read");
    let read = "select count(*) from patients";
    assert!(intruder.run(victim.schema(), &intruder.bind(&genuine), read).await.is_ok(), "the ticket maker works");

    let text = intruder.ticket(&genuine);
    let mac = intruder.mac(&format!("ticket.{text}.{}", intruder.pid));
    let neighbour = place.neighbour.tenant.id.to_string();
    let mut forged: Vec<(String, String)> = [
        text.replacen("clinician", "clinician,auditor", 1),
        text.replacen(".read.", ".write.", 1),
        text.replacen(&victim.tenant.id.to_string(), &neighbour, 1),
        text.replacen(".1.", ".2.", 2),
        text.replacen("v1.1.", "v1.2.", 1),
        text.replacen("v1.", "v2.", 1),
        format!("{text}00"),
        format!("{text}."),
        String::new(),
    ]
    .into_iter()
    .map(|tampered| (tampered, mac.clone()))
    .collect();
    forged.extend([(text.clone(), "0".repeat(64)), (text.clone(), String::new()), (text.clone(), mac.to_uppercase())]);
    let elsewhere = [
        format!("ticket.{text}.{}", intruder.pid + 1),
        format!("ticket.{text}."),
        format!("tx.{text}.{}", intruder.pid),
        text.clone(),
    ];
    for message in elsewhere {
        forged.push((text.clone(), intruder.mac(&message)));
    }
    let genuine_but = |change: fn(&mut Ticket)| {
        let mut ticket = genuine.clone();
        change(&mut ticket);
        ticket
    };
    let mut out_of_place = vec![
        genuine_but(|ticket| ticket.good_for_ms = -1),
        genuine_but(|ticket| ticket.good_for_ms = 60_000),
        genuine_but(|ticket| ticket.good_for_ms = 11_000),
    ];
    for purpose in ["migrate", "move", "restore", "reseal", "purge", "backup", "seal", "", "READ"] {
        out_of_place.push(Ticket { purpose, ..genuine.clone() });
    }
    for ticket in &out_of_place {
        let text = intruder.ticket(ticket);
        let mac = intruder.mac(&format!("ticket.{text}.{}", intruder.pid));
        forged.push((text, mac));
    }
    for (text, mac) in &forged {
        let refused =
            intruder.run(victim.schema(), &format!("select cordon.bind('{text}', '{mac}')"), read).await.unwrap_err();
        assert_eq!(refused.code, "42501", "{text}: {}", refused.message);
    }

    // What a bound transaction leaves in its settings is good for that transaction only.
    let bind = intruder.bind(&genuine);
    let settings = "select current_setting('app.claims'), current_setting('app.binding')";
    let said = intruder.run(victim.schema(), &bind, settings).await.unwrap();
    let (claims, binding) = said.lines().last().unwrap().split_once('\t').unwrap();
    let replay = format!(
        "select set_config('app.claims', '{claims}', true), set_config('app.binding', '{binding}', true), set_config('app.current_tenant', '{}', true)",
        victim.tenant.id
    );
    let refused = intruder.run(victim.schema(), &replay, read).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.message.as_str()), ("42501", "tenant binding refused"));
    let refused = intruder.run(victim.schema(), &format!("{bind}; {bind}"), read).await.unwrap_err();
    assert_eq!(refused.message, "already bound");
    println!("{:8} {:28} refused: {}", place.model.as_str(), "binding forged or replayed", forged.len() + 2);
}

/// Whatever reaches the bytes, they open with the keys, in the row and in the column they were sealed for, and nowhere else.
async fn keys_hold(place: &Place, site: &Site, app: &Arc<App>) {
    let (victim, neighbour) = (&place.victim, &place.neighbour);
    let (ours, theirs) =
        (app.keys.tenant(victim.tenant.id).await.unwrap(), app.keys.tenant(neighbour.tenant.id).await.unwrap());
    let home = victim.schema();
    let row = place
        .intruder
        .superuser
        .query_one(
            &format!(
                "select p.name_sealed, e.reason_sealed, v.title_sealed, v.body_sealed from {home}.patients p join {home}.encounters e \
                 on e.patient_id = p.id, {home}.note_versions v where p.id = '{}' and v.id = '{}'",
                victim.patient, victim.version
            ),
            &[],
        )
        .await
        .unwrap();
    let [name, reason, title, body]: [Vec<u8>; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    let text = |keys: &TenantKeys, row, bytes: &[u8]| keys.open::<NoteBody>(row, &Sealed::from_bytes(bytes.to_vec()));
    assert!(victim.shows_in(&text(&ours, victim.version, &body).unwrap()), "the right key opens");
    assert!(ours.open::<PatientName>(victim.patient, &Sealed::from_bytes(name.clone())).is_ok());
    assert!(ours.open::<EncounterReason>(victim.encounter, &Sealed::from_bytes(reason.clone())).is_ok());
    for (keys, row, bytes) in [
        (&theirs, victim.version, &body),
        (&ours, neighbour.version, &body),
        (&ours, victim.version, &title),
        (&ours, victim.version, &reason),
        (&ours, victim.encounter, &reason),
        (&ours, victim.patient, &name),
    ] {
        assert_eq!(text(keys, row, bytes), Err(Error::Integrity));
    }
    assert_eq!(ours.open::<NoteTitle>(victim.version, &Sealed::from_bytes(body.clone())), Err(Error::Integrity));
    for at in 0..body.len() {
        let mut broken = body.clone();
        broken[at] ^= 1;
        assert_eq!(text(&ours, victim.version, &broken), Err(Error::Integrity), "byte {at}");
    }

    // A superuser moves the victim's row to the neighbour, who reads it through the guard.
    let there = neighbour.schema();
    site.superuser(&neighbour.placement().database)
        .await
        .batch_execute(&format!(
            "begin; alter table {there}.patients disable trigger user; insert into {there}.patients (tenant_id, id, name_sealed) values ('{}', '{}', '\\x{}');
             {}; commit",
            neighbour.tenant.id,
            victim.patient,
            cordon::audit::hex(&name),
            ENABLE.replace("{t}", &format!("{there}.patients"))
        ))
        .await
        .unwrap();
    let tx = app
        .guards
        .work(neighbour.tenant.id, &actor(neighbour.tenant.id, "clinician"), TxKind::Read, RequestId::new())
        .await
        .unwrap();
    let moved = patients::table.select(patients::name_sealed.assume_not_null()).filter(patients::id.eq(victim.patient));
    let moved: Sealed<PatientName> = tx.first(moved).await.unwrap();
    assert_eq!(tx.keys().open(victim.patient, &moved).err(), Some(Error::Integrity));
    tx.rollback().await.unwrap();
    println!("{:8} {:28} held: keys", place.model.as_str(), "wrong key, moved rows");
}

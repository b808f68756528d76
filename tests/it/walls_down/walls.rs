//! The walls that are taken down: for each the SQL that removes it and the SQL that restores it.

use super::Attack;
use crate::support::marked_chart::TABLES;
use cordon::tenant::TenancyModel;

/// Returns the tables with the policy `tenant`: all but the audit log.
fn enclosed_tables() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|(table, _)| *table).filter(|table| *table != "audit_log")
}

/// Functions whose search path is fixed.
const PINNED_FUNCTIONS: [&str; 6] = [
    "bind(int, bigint, bigint, int, text, text)",
    "open_session()",
    "refuse_unbound()",
    "stamp()",
    "own_rows()",
    "audit_write()",
];

/// Enables all triggers of the table `{t}` again, as ALWAYS.
pub const RESTORE_TRIGGERS: &str =
    "do $$ declare t name; begin for t in select tgname from pg_trigger where tgrelid = '{t}'::regclass and not \
     tgisinternal
 loop execute format('alter table {t} enable always trigger %I', t); end loop; end $$";

/// A wall, and the SQL that takes it down and restores it.
pub struct Wall {
    pub name: &'static str,
    pub down: String,
    pub up: String,
    /// Whether rows of the victim become visible without it. Their sealed columns stay sealed.
    pub clear_columns: bool,
}

impl Attack {
    /// Returns all walls of the victim, each to be taken down alone.
    pub fn walls(&self) -> Vec<Wall> {
        let (home, login) = (self.victim.schema(), &self.login);
        let each = |text: &str| -> String {
            enclosed_tables()
                .map(|table| text.replace("{t}", &format!("{home}.{table}")).replace("{table}", table) + ";")
                .collect()
        };
        let functions = |text: &str| -> String {
            PINNED_FUNCTIONS.iter().map(|f| format!("alter function cordon.{f} {text};")).collect()
        };
        let wall = |name, clear_columns, down: String, up: String| Wall { name, down, up, clear_columns };
        let policy = "using (tenant_id = (select cordon.current_tenant())) with check (tenant_id = (select \
            cordon.writing_tenant()))";
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
            wall("triggers disabled", false, each("alter table {t} disable trigger user"), each(RESTORE_TRIGGERS)),
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
        // This is the last wall, because the login loses its grants when the tables get their owner back.
        let grants = each(&format!("alter table {{t}} owner to cordon_owner; grant select on {{t}} to {login}"));
        walls.push(wall("login owns the tables", false, each(&format!("alter table {{t}} owner to {login}")), grants));
        walls
    }
}

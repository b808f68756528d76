//! The floor: what the same answers cost when nothing is there but PostgreSQL. The statements that a request sent are read from PostgreSQL's
//! log and run again by pgbench, each transaction in one pipeline, with the guard's head, binding, row security and audit row in it, or without.

use super::spent;
use super::{Outcome, Rig};
use cordon::tenant::Tenant;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How much of the guard is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarded {
    /// The statements alone, by a superuser.
    Bare,
    /// With head and binding, row security still bypassed.
    Bound,
    /// By a login like the server's, so that policies apply.
    Secured,
    /// And the audit row: all that PostgreSQL does for an answer of Cordon's.
    Audited,
}

/// One transaction of a request.
#[derive(Debug, Clone, Default)]
struct Transaction {
    write: bool,
    statements: Vec<String>,
    audit: Option<String>,
}

/// What one request sent.
#[derive(Debug, Clone)]
pub struct Recorded(Vec<Transaction>);

/// Runs recorded requests.
pub struct Floor {
    directory: PathBuf,
    tenant: String,
    schema: String,
    host: String,
    password: String,
    superuser: String,
    postmaster: u32,
}

/// What came of a run of pgbench.
#[derive(Debug, Clone)]
pub struct Run {
    pub rate: f64,
    pub milliseconds: Vec<f64>,
    /// Microseconds of processor time a request: PostgreSQL and pgbench.
    pub cpu: f64,
}

/// Who binds in pgbench: what the guard signs, made in the database.
const BIND: &str = "create schema bench;
    create function bench.bind(tenant uuid, purpose text, event text) returns void language plpgsql security definer
      set search_path = pg_catalog, pg_temp as $$
    declare
      k record; ticket text; mac text;
      who text := encode(convert_to(case when event = '' then '[\"bench\",\"bench\",null,null]'
        else '[\"bench\",\"bench\",null,null,\"127.0.0.1\",\"bench\",null]' end, 'utf8'), 'hex');
    begin
      select * into k from cordon.binding_keys order by kid desc limit 1;
      ticket := 'v1.' || k.kid || '.' || (extract(epoch from clock_timestamp()) * 1000 + 5000)::bigint || '.1.' || tenant || '.' || tenant
        || '.clinician.' || purpose || '.' || tenant || '.' || who || '.' || event;
      mac := encode(sha256(k.opad || sha256(k.ipad || convert_to('ticket.' || ticket || '.' || pg_backend_pid(), 'utf8'))), 'hex');
      perform cordon.bind(ticket, mac);
    end $$;
    create role bench_app login; grant cordon_app to bench_app; grant connect on database cordon_data to bench_app;
    grant usage on schema bench to bench_app; revoke all on function bench.bind from public; grant execute on function bench.bind to bench_app;";

impl Floor {
    pub async fn make(rig: &Rig, tenant: &Tenant) -> Outcome<Self> {
        let superuser = rig.superuser("cordon_data").await?;
        superuser.batch_execute(BIND).await?;
        let password = "of-the-bench-alone";
        superuser.batch_execute(&format!("alter role bench_app password '{password}'")).await?;
        let placement = tenant.placement.as_ref().ok_or("no placement")?;
        Ok(Self {
            directory: rig.directory.clone(),
            tenant: tenant.id.to_string(),
            schema: placement.schema.as_str().to_owned(),
            host: rig.cluster.socket_dir().display().to_string(),
            password: password.to_owned(),
            superuser: rig.cluster.superuser_url("cordon_data").expose_secret().to_owned(),
            postmaster: rig.cluster.pid(),
        })
    }

    /// What `request` sends, read from PostgreSQL's log.
    pub async fn record(&self, rig: &Rig, request: impl AsyncFnOnce() -> Outcome<()>) -> Outcome<Recorded> {
        let superuser = rig.superuser("cordon_data").await?;
        let log = rig.directory.join("cluster/log");
        superuser.batch_execute("alter system set log_statement = 'all'").await?;
        superuser.batch_execute("select pg_reload_conf()").await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = std::fs::metadata(&log)?.len();
        let outcome = request().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let text = String::from_utf8_lossy(std::fs::read(&log)?.get(usize::try_from(before)?..).unwrap_or_default())
            .into_owned();
        superuser.batch_execute("alter system reset log_statement").await?;
        superuser.batch_execute("select pg_reload_conf()").await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        outcome?;
        let recorded = Recorded::read(&text)?;
        let statements: usize = recorded.0.iter().map(|transaction| transaction.statements.len()).sum();
        if statements == 0 {
            return Err(format!("no statement in the log:\n{text}").into());
        }
        Ok(recorded)
    }

    /// Runs the requests in turn.
    pub fn run(&self, requests: &[Recorded], guarded: Guarded, connections: usize, time: Duration) -> Outcome<Run> {
        let place = self.directory.join("pgbench");
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir(&place)?;
        let mut command = Command::new(program("pgbench")?);
        let seconds = time.as_secs().max(1).to_string();
        command.current_dir(&place).args(["-n", "-M", "prepared", "-l", "--log-prefix=run", "-j", "2", "-T", &seconds]);
        command.args(["-c", &connections.to_string()]);
        // What goes into a pipeline is prepared before it begins.
        command.env("PGOPTIONS", format!("-c search_path={}", self.schema));
        for (number, request) in requests.iter().enumerate() {
            let file = place.join(format!("{number}.sql"));
            std::fs::write(&file, self.script(request, guarded))?;
            command.arg("-f").arg(&file);
        }
        match guarded {
            Guarded::Bare | Guarded::Bound => command.arg(&self.superuser),
            Guarded::Secured | Guarded::Audited => {
                command.env("PGPASSWORD", &self.password).args(["-h", &self.host, "-U", "bench_app", "cordon_data"])
            }
        };
        let before = spent::seconds(self.postmaster);
        let (own, output) = spent::of_child(|| command.output())?;
        let database = spent::seconds(self.postmaster) - before;
        if !output.status.success() {
            return Err(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let mut milliseconds = latencies(&place)?;
        milliseconds.sort_by(f64::total_cmp);
        let count = milliseconds.len() as f64;
        Ok(Run { rate: count / time.as_secs_f64().max(1.0), cpu: (database + own) * 1e6 / count, milliseconds })
    }

    fn script(&self, request: &Recorded, guarded: Guarded) -> String {
        let mut fresh = BTreeMap::new();
        let mut body = String::new();
        for Transaction { write, statements, audit } in &request.0 {
            let (purpose, event) = if *write { ("write", "note-drafted") } else { ("read", "") };
            let isolation = if *write { "READ COMMITTED" } else { "REPEATABLE READ" };
            let path = format!("set_config('search_path','{}, pg_temp',true)", self.schema);
            let _ = writeln!(body, "\\startpipeline\nBEGIN ISOLATION LEVEL {isolation} READ WRITE;");
            let _ = match guarded {
                Guarded::Bare => writeln!(body, "SELECT {path};"),
                _ => writeln!(
                    body,
                    "SELECT {path},set_config('statement_timeout','8000',true),set_config('lock_timeout','3000',true),\
                     set_config('idle_in_transaction_session_timeout','30000',true),set_config('synchronous_commit','on',true),\
                     set_config('row_security','on',true),set_config('enable_seqscan','off',true),set_config('jit','off',true),set_config('standard_conforming_strings','on',true),\
                     set_config('client_encoding','UTF8',true),set_config('TimeZone','UTC',true);\n\
                     SELECT bench.bind('{}'::uuid, '{purpose}', '{event}');",
                    self.tenant
                ),
            };
            for statement in statements {
                let _ = writeln!(
                    body,
                    "{};",
                    if *write { self.anew(statement, &mut fresh) } else { self.known(statement, &fresh) }
                );
            }
            if let (Guarded::Audited, Some(audit)) = (guarded, audit) {
                let _ = writeln!(body, "{audit};");
            }
            let _ = writeln!(body, "COMMIT;\n\\endpipeline");
        }
        let chance: String = fresh.values().map(|n| format!("\\set n{n} random(1, 1000000000000)\n")).collect();
        chance + &body
    }

    /// A write's own ids are made anew in each run.
    fn anew(&self, statement: &str, fresh: &mut BTreeMap<String, usize>) -> String {
        let insert = statement.to_ascii_uppercase().starts_with("INSERT INTO");
        for id in uuids(statement) {
            // The second id of an insert is the row's; what comes earlier was there before.
            if insert
                && uuids(statement).nth(1) == Some(id)
                && !statement.contains("idempotency")
                && !fresh.contains_key(id)
            {
                let next = fresh.len();
                fresh.insert(id.to_owned(), next);
            }
        }
        self.known(statement, fresh)
    }

    fn known(&self, statement: &str, fresh: &BTreeMap<String, usize>) -> String {
        fresh.iter().fold(statement.to_owned(), |text, (id, n)| {
            let made = format!("('00000000-0000-4000-8000-' || lpad(to_hex(:n{n}::bigint), 12, '0'))::uuid");
            let text = text.replace(&format!("'{id}'::uuid"), &made);
            text.replace(&format!("'{{{id}}}'::uuid[]"), &format!("array[{made}]"))
        })
    }
}

impl Run {
    pub fn quantile(&self, share: f64) -> f64 {
        let at = (self.milliseconds.len() as f64 * share) as usize;
        self.milliseconds.get(at.min(self.milliseconds.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl Recorded {
    /// From lines of the log: what one session said, between the transactions' begins and ends.
    fn read(text: &str) -> Outcome<Self> {
        let mut records: Vec<String> = Vec::new();
        for line in text.lines() {
            match line.strip_prefix('\t') {
                Some(more) => records
                    .iter_mut()
                    .last()
                    .map(|record| *record = format!("{record} {}", more.trim()))
                    .unwrap_or_default(),
                None => records.push(line.to_owned()),
            }
        }
        let mut transactions: Vec<Transaction> = Vec::new();
        for (nth, record) in records.iter().enumerate() {
            let after = |mark: &str| record.split_once(mark).map(|(_, rest)| rest);
            if let Some(said) = after("LOG:  statement: ") {
                if said.starts_with("BEGIN") {
                    transactions.push(Transaction { write: said.contains(".write."), ..Transaction::default() });
                } else if let Some((audit, _)) = said.split_once(";COMMIT") {
                    transactions.iter_mut().last().map(|last| last.audit = Some(audit.to_owned())).unwrap_or_default();
                }
            } else if let Some(said) = after("LOG:  execute ") {
                let (_, sql) = said.split_once(": ").ok_or("no statement")?;
                // PostgreSQL 16 began to write it large.
                let parameters = records
                    .get(nth + 1)
                    .and_then(|next| next.split_once("DETAIL:  ")?.1.split_once("arameters: "))
                    .map(|(_, list)| list);
                let sql = filled(sql, &values(parameters.unwrap_or_default()));
                transactions.iter_mut().last().map(|last| last.statements.push(sql)).unwrap_or_default();
            }
        }
        Ok(Self(transactions))
    }
}

/// `$1 = 'a', $2 = NULL` to literals.
fn values(list: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = list;
    while let Some((_, after)) = rest.split_once(" = ") {
        let Some(quoted) = after.strip_prefix('\'') else {
            found.push("NULL".to_owned());
            rest = after;
            continue;
        };
        let mut value = String::new();
        let mut letters = quoted.char_indices().peekable();
        let mut end = quoted.len();
        while let Some((at, letter)) = letters.next() {
            if letter == '\'' {
                if letters.peek().is_some_and(|(_, next)| *next == '\'') {
                    letters.next();
                    value.push('\'');
                    continue;
                }
                end = at + 1;
                break;
            }
            value.push(letter);
        }
        // Of an empty list only the context knows what it is of.
        let cast = if value == "{}" { String::new() } else { format!("::{}", kind(&value)) };
        found.push(format!("'{}'{cast}", value.replace('\'', "''")));
        rest = quoted.get(end..).unwrap_or_default();
    }
    found
}

/// The type a value looks like.
fn kind(value: &str) -> &'static str {
    let is_uuid = |text: &str| text.len() == 36 && text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let is_number =
        |text: &str| !text.is_empty() && text.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit());
    if let Some(list) = value.strip_prefix('{') {
        let first = list.trim_end_matches('}').split(',').next().unwrap_or_default();
        return if is_uuid(first) {
            "uuid[]"
        } else if is_number(first) {
            "bigint[]"
        } else {
            "text[]"
        };
    }
    match value {
        text if is_uuid(text) => "uuid",
        text if text.starts_with("\\x") => "bytea",
        "t" | "f" => "boolean",
        text if is_number(text) => "integer",
        text if text.len() > 18
            && text.len() < 40
            && text.starts_with(|first: char| first.is_ascii_digit())
            && text.contains("+00") =>
        {
            "timestamptz"
        }
        _ => "text",
    }
}

fn filled(sql: &str, values: &[String]) -> String {
    values
        .iter()
        .enumerate()
        .rev()
        .fold(sql.to_owned(), |text, (nth, value)| text.replace(&format!("${}", nth + 1), value))
}

fn uuids(statement: &str) -> impl Iterator<Item = &str> {
    statement.split('\'').skip(1).step_by(2).filter(|literal| kind(literal) == "uuid")
}

fn latencies(place: &Path) -> Outcome<Vec<f64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(place)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("run.") {
            let text = std::fs::read_to_string(entry.path())?;
            found.extend(
                text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()).map(|micros| micros / 1e3),
            );
        }
    }
    Ok(found)
}

/// One of PostgreSQL's client programs, beside its server.
fn program(name: &str) -> Outcome<PathBuf> {
    let found = cordon::cluster::Binaries::find(None)?;
    let path = found.dir().join(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{name} is not beside PostgreSQL's server programs in {}", found.dir().display()).into())
    }
}

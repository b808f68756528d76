//! The floor: the cost of the same requests with PostgreSQL alone. The statements of a request are read from the log of
//! PostgreSQL and run again by pgbench, each transaction in one pipeline, with or without the guard's transaction
//! start, binding, row security and audit row.

use super::process_stats;
use super::{BenchResult, BenchSite};
use cordon::tenant::Tenant;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How much of the guard's work a run includes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardLevel {
    /// The statements only, run by a superuser.
    Bare,
    /// With the transaction start and the binding. Row security is still bypassed.
    Bound,
    /// With a login like the server's, so that row security applies.
    Secured,
    /// With the audit row: everything that PostgreSQL does for a request to Cordon.
    Audited,
}

/// One transaction of a request.
#[derive(Debug, Clone, Default)]
struct Transaction {
    write: bool,
    /// The principal of its claims, whose drafts a write changes.
    principal: String,
    statements: Vec<String>,
    audit: Option<String>,
}

/// The transactions of one request.
#[derive(Debug, Clone)]
pub struct RecordedRequest(Vec<Transaction>);

/// Runs recorded requests with pgbench.
pub struct Floor {
    directory: PathBuf,
    tenant: String,
    schema: String,
    host: String,
    password: String,
    superuser: String,
    postmaster: u32,
}

/// The results of a run of pgbench.
#[derive(Debug, Clone)]
pub struct Run {
    pub rate: f64,
    pub milliseconds: Vec<f64>,
    /// Microseconds of processor time per request, of PostgreSQL and pgbench.
    pub cpu: f64,
}

/// A function that creates and signs a ticket in the database and binds with it, in place of the guard.
const BIND: &str = "create schema bench;
    create function bench.bind(tenant text, principal text, purpose text, event text) returns void language plpgsql \
    security definer
      set search_path = pg_catalog, pg_temp as $$
    declare
      k record; number bigint; expiry bigint; claims text; mac text;
      who text := encode(convert_to(case when event = '' then '[\"bench\",\"bench\",null,null]'
        else '[\"bench\",\"bench\",null,null,\"127.0.0.1\",\"bench\",null]' end, 'utf8'), 'hex');
    begin
      select * into k from cordon.binding_keys order by kid desc limit 1;
      number := nextval('cordon.bindings') + 1;
      expiry := extract(epoch from clock_timestamp()) * 1000 + 5000;
      claims := concat_ws(',', replace(tenant, '-', ''), principal, 'clinician', purpose, principal, who, event);
      mac := encode(sha256(k.opad || sha256(k.ipad || convert_to(concat_ws('.', 'bind.v2', pg_backend_pid(), number,
        expiry, 1, claims), 'utf8'))), 'hex');
      perform cordon.bind(k.kid, number, expiry, 1, claims, mac);
    end $$;
    create role bench_app login; grant cordon_app to bench_app; grant connect on database cordon_data to bench_app;
    grant usage on schema bench to bench_app; revoke all on function bench.bind from public; grant execute on function \
    bench.bind to bench_app;";

impl Floor {
    pub async fn create(site: &BenchSite, tenant: &Tenant) -> BenchResult<Self> {
        let superuser = site.superuser("cordon_data").await?;
        superuser.batch_execute(BIND).await?;
        let password = "of-the-bench-alone";
        superuser.batch_execute(&format!("alter role bench_app password '{password}'")).await?;
        let placement = tenant.placement.as_ref().ok_or("no placement")?;
        Ok(Self {
            directory: site.directory.clone(),
            tenant: tenant.id.to_string(),
            schema: placement.schema.as_str().to_owned(),
            host: site.cluster.socket_dir().display().to_string(),
            password: password.to_owned(),
            superuser: site.cluster.superuser_url("cordon_data").expose_secret().to_owned(),
            postmaster: site.cluster.pid(),
        })
    }

    /// Runs `request` and reads the statements it sent from the log of PostgreSQL.
    pub async fn record(
        &self,
        site: &BenchSite,
        request: impl AsyncFnOnce() -> BenchResult<()>,
    ) -> BenchResult<RecordedRequest> {
        let superuser = site.superuser("cordon_data").await?;
        let log = site.directory.join("cluster/log");
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
        let recorded = RecordedRequest::parse(&text)?;
        let statements: usize = recorded.0.iter().map(|transaction| transaction.statements.len()).sum();
        if statements == 0 {
            return Err(format!("no statement in the log:\n{text}").into());
        }
        Ok(recorded)
    }

    /// Runs the requests in turn with pgbench.
    pub fn run(
        &self,
        requests: &[RecordedRequest],
        level: GuardLevel,
        connections: usize,
        time: Duration,
    ) -> BenchResult<Run> {
        let directory = self.directory.join("pgbench");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory)?;
        let mut command = Command::new(program("pgbench")?);
        let seconds = time.as_secs().max(1).to_string();
        command.current_dir(&directory).args([
            "-n",
            "-M",
            "prepared",
            "-l",
            "--log-prefix=run",
            "-j",
            "2",
            "-T",
            &seconds,
        ]);
        command.args(["-c", &connections.to_string()]);
        // pgbench prepares the statements of a pipeline before the pipeline starts, so the search path is set for the
        // session.
        command.env("PGOPTIONS", format!("-c search_path={}", self.schema));
        for (number, request) in requests.iter().enumerate() {
            let file = directory.join(format!("{number}.sql"));
            std::fs::write(&file, self.script(request, level))?;
            command.arg("-f").arg(&file);
        }
        match level {
            GuardLevel::Bare | GuardLevel::Bound => command.arg(&self.superuser),
            GuardLevel::Secured | GuardLevel::Audited => {
                command.env("PGPASSWORD", &self.password).args(["-h", &self.host, "-U", "bench_app", "cordon_data"])
            }
        };
        let before = process_stats::cpu_seconds(self.postmaster);
        let (own, output) = process_stats::child_cpu_seconds(|| command.output())?;
        let database = process_stats::cpu_seconds(self.postmaster) - before;
        if !output.status.success() {
            return Err(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let mut milliseconds = latencies(&directory)?;
        milliseconds.sort_by(f64::total_cmp);
        let count = milliseconds.len() as f64;
        Ok(Run { rate: count / time.as_secs_f64().max(1.0), cpu: (database + own) * 1e6 / count, milliseconds })
    }

    fn script(&self, request: &RecordedRequest, level: GuardLevel) -> String {
        let mut fresh = BTreeMap::new();
        let mut body = String::new();
        for Transaction { write, principal, statements, audit } in &request.0 {
            let (purpose, event) = if *write { ("write", "note drafted") } else { ("read", "") };
            let isolation = if *write { "READ COMMITTED" } else { "REPEATABLE READ" };
            let path = format!("set_config('search_path','{}, pg_temp',true)", self.schema);
            let _ = writeln!(body, "\\startpipeline\nBEGIN ISOLATION LEVEL {isolation} READ WRITE;");
            let _ = match level {
                GuardLevel::Bare => writeln!(body, "SELECT {path};"),
                _ => writeln!(
                    body,
                    "SELECT {path},set_config('statement_timeout','8000',true),set_config('lock_timeout','3000',true),\
                     set_config('idle_in_transaction_session_timeout','30000',true),\
                     set_config('synchronous_commit','on',true),\
                     set_config('row_security','on',true),set_config('enable_seqscan','off',true),\
                     set_config('jit','off',true),set_config('standard_conforming_strings','on',true),\
                     set_config('client_encoding','UTF8',true),set_config('TimeZone','UTC',true);\n\
                     SELECT bench.bind('{}', '{principal}', '{purpose}', '{event}');",
                    self.tenant
                ),
            };
            for statement in statements {
                let _ = writeln!(
                    body,
                    "{};",
                    if *write {
                        self.with_new_ids(statement, &mut fresh)
                    } else {
                        self.with_known_ids(statement, &fresh)
                    }
                );
            }
            if let (GuardLevel::Audited, Some(audit)) = (level, audit) {
                let _ = writeln!(body, "{audit};");
            }
            let _ = writeln!(body, "COMMIT;\n\\endpipeline");
        }
        let random_variables: String =
            fresh.values().map(|n| format!("\\set n{n} random(1, 1000000000000)\n")).collect();
        random_variables + &body
    }

    /// Replaces the ids that a write creates with new ones in each run.
    fn with_new_ids(&self, statement: &str, fresh: &mut BTreeMap<String, usize>) -> String {
        let insert = statement.to_ascii_uppercase().starts_with("INSERT INTO");
        for id in uuids(statement) {
            // The second id of an INSERT is the id of the row. Other ids existed before.
            if insert
                && uuids(statement).nth(1) == Some(id)
                && !statement.contains("idempotency")
                && !fresh.contains_key(id)
            {
                let next = fresh.len();
                fresh.insert(id.to_owned(), next);
            }
        }
        self.with_known_ids(statement, fresh)
    }

    fn with_known_ids(&self, statement: &str, fresh: &BTreeMap<String, usize>) -> String {
        fresh.iter().fold(statement.to_owned(), |text, (id, n)| {
            let id_expression = format!("('00000000-0000-4000-8000-' || lpad(to_hex(:n{n}::bigint), 12, '0'))::uuid");
            let text = text.replace(&format!("'{id}'::uuid"), &id_expression);
            text.replace(&format!("'{{{id}}}'::uuid[]"), &format!("array[{id_expression}]"))
        })
    }
}

impl Run {
    pub fn quantile(&self, share: f64) -> f64 {
        let at = (self.milliseconds.len() as f64 * share) as usize;
        self.milliseconds.get(at.min(self.milliseconds.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl RecordedRequest {
    /// Parses the log of PostgreSQL into transactions.
    fn parse(text: &str) -> BenchResult<Self> {
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
            if let Some(statement) = after("LOG:  statement: ") {
                if statement.starts_with("BEGIN") {
                    // The claims are tenant, principal, roles, purpose, …
                    let claims: Vec<_> = statement
                        .split('\'')
                        .find(|text| text.matches(',').count() == 6)
                        .into_iter()
                        .flat_map(|claims| claims.split(','))
                        .collect();
                    let part = |at: usize| claims.get(at).copied().unwrap_or_default();
                    let (write, principal) = (part(3) == "write", part(1).to_owned());
                    transactions.push(Transaction { write, principal, ..Transaction::default() });
                } else if let Some((audit, _)) = statement.split_once(";COMMIT") {
                    transactions.iter_mut().last().map(|last| last.audit = Some(audit.to_owned())).unwrap_or_default();
                }
            } else if let Some(execution) = after("LOG:  execute ") {
                let (_, sql) = execution.split_once(": ").ok_or("no statement")?;
                // PostgreSQL 16 and later write `Parameters` with a capital letter.
                let parameters = records
                    .get(nth + 1)
                    .and_then(|next| next.split_once("DETAIL:  ")?.1.split_once("arameters: "))
                    .map(|(_, list)| list);
                let sql = with_parameters(sql, &parameter_literals(parameters.unwrap_or_default()));
                transactions.iter_mut().last().map(|last| last.statements.push(sql)).unwrap_or_default();
            }
        }
        Ok(Self(transactions))
    }
}

/// Converts the logged parameters `$1 = 'a', $2 = NULL` to SQL literals.
fn parameter_literals(list: &str) -> Vec<String> {
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
        // The element type of an empty array is left to PostgreSQL.
        let cast = if value == "{}" { String::new() } else { format!("::{}", guessed_type(&value)) };
        found.push(format!("'{}'{cast}", value.replace('\'', "''")));
        rest = quoted.get(end..).unwrap_or_default();
    }
    found
}

/// Guesses the type of a value from its form.
fn guessed_type(value: &str) -> &'static str {
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

fn with_parameters(sql: &str, values: &[String]) -> String {
    values
        .iter()
        .enumerate()
        .rev()
        .fold(sql.to_owned(), |text, (nth, value)| text.replace(&format!("${}", nth + 1), value))
}

fn uuids(statement: &str) -> impl Iterator<Item = &str> {
    statement.split('\'').skip(1).step_by(2).filter(|literal| guessed_type(literal) == "uuid")
}

fn latencies(directory: &Path) -> BenchResult<Vec<f64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("run.") {
            let text = std::fs::read_to_string(entry.path())?;
            found.extend(
                text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()).map(|micros| micros / 1e3),
            );
        }
    }
    Ok(found)
}

/// Returns the path of a client program of PostgreSQL, in the directory of its server.
fn program(name: &str) -> BenchResult<PathBuf> {
    let found = cordon::cluster::Binaries::find(None)?;
    let path = found.dir().join(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{name} is not beside PostgreSQL's server programs in {}", found.dir().display()).into())
    }
}

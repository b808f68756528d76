-- The roles of one PostgreSQL server. A superuser runs it; running it again changes nothing. Passwords are set
-- elsewhere.
do $$
declare
  role record;
begin
  for role in select * from (values
      ('cordon_owner', 'nologin'),                            -- owns tables and schemas; reads no rows
      ('cordon_guard', 'nologin'),                            -- owns the functions that bind and audit
      ('cordon_search', 'nologin'),                           -- owns the functions that search
      ('cordon_app', 'login'),                                -- tenant SQL of shared and schema tenants
      ('cordon_keeper', 'login'),                             -- data steps of operations, for one tenant and purpose
      ('cordon_catalog_reader', 'login'),                     -- the server's view of the catalog
      ('cordon_operator', 'login')                            -- structure: databases, schemas, migrations
    ) r(name, login)
  loop
    if not exists (select from pg_roles where rolname = role.name) then
      execute format('create role %I', role.name);
    end if;
    execute format('alter role %I %s nosuperuser nobypassrls noreplication %s', role.name, role.login, case role.name
      when 'cordon_operator' then 'createdb createrole inherit' else 'nocreatedb nocreaterole noinherit' end);
    -- src/db/fault.rs compares the text of some of PostgreSQL's messages.
    if role.login = 'login' then
      execute format('alter role %I set lc_messages = ''C''', role.name);
    end if;
  end loop;
end $$;
-- bind() keeps a transaction's claims in this parameter, which otherwise only a superuser may set.
grant set on parameter backtrace_functions to cordon_guard;
-- The operator sets lc_messages for the logins of tenants that have a database of their own.
grant set on parameter lc_messages to cordon_operator;
grant cordon_owner, cordon_guard, cordon_search to cordon_operator;
alter role cordon_app set statement_timeout = '30s';
alter role cordon_app set idle_in_transaction_session_timeout = '30s';
alter role cordon_app set search_path = '';
alter role cordon_keeper set search_path = '';
revoke connect, temporary on database postgres, template1 from public;
-- The operator gives databases their binding keys as parameters of statements. These settings keep parameters out of
-- the log, whatever log_statement and similar settings say.
alter role cordon_operator set log_parameter_max_length = 0;
alter role cordon_operator set log_parameter_max_length_on_error = 0;
alter role cordon_operator set debug_print_plan = off;

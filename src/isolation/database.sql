-- Checks the walls that all tenants of a database share, with the privileges of the server's own login. The text
-- continues a WITH clause that defines `reaching` (reaching_functions.sql). $1 is the text of the database's
-- migrations. Each row of the result names a wall that is down. Privileges are checked for the login, which includes
-- those of PUBLIC.
me as (select r.* from pg_roles r where r.rolname = session_user),
public_view(name) as (values ('pg_stat_activity'), ('pg_stat_replication'), ('pg_stat_ssl'), ('pg_stat_gssapi'),
  ('pg_prepared_statements'), ('pg_cursors'), ('pg_stats'), ('pg_stats_ext'), ('pg_stats_ext_exprs')),
guarded(name, definer, volatility) as (values ('bind', true, 'v'), ('open_session', true, 'v'),
  ('refuse_unbound', false, 's'), ('audit_write', true, 'v'), ('audit_roles', true, 'v'),
  ('delete_expired_keys', true, 'v')),
-- The functions that policies call, as PostgreSQL prints their standard bodies.
inlined(name, body) as (values
  ('claims', $$string_to_array(COALESCE(NULLIF(current_setting('backtrace_functions'::text), ''::text), $$
    || $$cordon.refuse_unbound()), ','::text)$$),
  ('current_tenant', $$(substr(COALESCE(NULLIF(current_setting('backtrace_functions'::text), ''::text), $$
    || $$cordon.refuse_unbound()), 1, 32))::uuid$$),
  ('writing_tenant', $$(CASE WHEN (split_part(current_setting('backtrace_functions'::text), ','::text, 4) = $$
    || $$ANY (ARRAY[''::text, 'read'::text, 'backup'::text, 'seal'::text])) THEN cordon.refuse_unbound() $$
    || $$ELSE substr(current_setting('backtrace_functions'::text), 1, 32) END)::uuid$$),
  ('purpose', $$split_part(COALESCE(NULLIF(current_setting('backtrace_functions'::text), ''::text), $$
    || $$cordon.refuse_unbound()), ','::text, 4)$$),
  ('has_role', $$(role = ANY (string_to_array((cordon.claims())[3], ' '::text)))$$)),
defined(text) as (select regexp_split_to_table($1, '\ncreate (or replace )?(function|procedure) cordon\.'))
select format('login %s is a superuser, bypasses row security or can make roles or databases', rolname) as wall
  from me where rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication
union all select format('login %s is a member of %s', me.rolname, m.roleid::regrole)
  from me join pg_auth_members m on m.member = me.oid
union all select format('role %s is a member of %s', m.member::regrole, m.roleid::regrole)
  from pg_auth_members m join pg_roles r on r.oid = m.member
  where r.rolname in ('cordon_owner', 'cordon_guard', 'cordon_search', 'cordon_keeper', 'cordon_catalog_reader')
union all select format('login %s may connect to database %s', session_user, d.datname) from pg_database d
  where d.datallowconn and d.datname <> current_database() and has_database_privilege(session_user, d.oid, 'CONNECT')
union all select format('login %s has %s on database %s', session_user, p, current_database())
  from unnest('{CREATE,TEMPORARY}'::text[]) p
  where has_database_privilege(session_user, current_database(), p)
union all select format('login %s is given setting %s', me.rolname, s)
  from me join pg_db_role_setting d on d.setrole = me.oid, unnest(d.setconfig) s
  where s !~ '^(statement_timeout|idle_in_transaction_session_timeout)='
    and s not in ('search_path=""', 'lc_messages=C')
union all select format('login %s owns %s', me.rolname, c.oid::regclass) from me join pg_class c on c.relowner = me.oid
  where c.relpersistence <> 't'
union all select format('login %s owns function %s', me.rolname, p.oid::regprocedure)
  from me join pg_proc p on p.proowner = me.oid
union all select format('login %s owns schema %s', me.rolname, n.nspname)
  from me join pg_namespace n on n.nspowner = me.oid
  where n.nspname !~ '^pg_(toast_)?temp_'
union all select format('login %s owns database %s', me.rolname, d.datname)
  from me join pg_database d on d.datdba = me.oid
union all select format('login %s may create in schema %s', session_user, n.nspname) from pg_namespace n
  where has_schema_privilege(session_user, n.oid, 'CREATE') and n.nspname !~ '^pg_(toast_)?temp_'
union all select format('role %s can log in, is a superuser or bypasses row security', rolname) from pg_roles
  where rolname in ('cordon_owner', 'cordon_guard', 'cordon_search') and (rolcanlogin or rolsuper or rolbypassrls)
union all select format('role %s can make roles or databases, or replicates', rolname) from pg_roles
  where rolname in ('cordon_owner', 'cordon_guard', 'cordon_search', 'cordon_keeper', 'cordon_catalog_reader')
    and (rolcreaterole or rolcreatedb or rolreplication)
union all select format('role %s is a superuser or bypasses row security', rolname) from pg_roles
  where rolname in ('cordon_keeper', 'cordon_app', 'cordon_operator', 'cordon_catalog_reader')
    and (rolsuper or rolbypassrls)
union all select format('PUBLIC has %s on database %s', p, current_database())
  from unnest('{CONNECT,TEMPORARY}'::text[]) p
  where has_database_privilege('public', current_database(), p)
union all select format('PUBLIC has %s on schema public', p) from unnest('{USAGE,CREATE}'::text[]) p
  where to_regnamespace('public') is not null and has_schema_privilege('public', 'public', p)
union all select format('login %s may use language %s', session_user, lanname) from pg_language
  where lanpltrusted and has_language_privilege(session_user, oid, 'USAGE')
union all select format('login %s may read %s', session_user, v.name) from public_view v
  where has_any_column_privilege(session_user, 'pg_catalog.' || v.name, 'SELECT')
union all select format('login %s may call %s', session_user, r.function::regprocedure) from reaching r
  where has_function_privilege(session_user, r.function, 'EXECUTE')
union all select format('function cordon.%s is missing', g.name)
  from (select name from guarded union all select name from inlined) g
  where not exists (select from pg_proc p where p.pronamespace = 'cordon'::regnamespace and p.proname = g.name)
union all select format('function %s differs from its migration: owner %s, definer %s, volatility %s, settings %s',
    p.oid::regprocedure, p.proowner::regrole, p.prosecdef, p.provolatile, p.proconfig)
  from pg_proc p join guarded g on g.name = p.proname
  where p.pronamespace = 'cordon'::regnamespace and (
    p.proowner <> 'cordon_guard'::regrole or p.prosecdef <> g.definer or p.provolatile <> g.volatility::"char"
    or p.proconfig is null or not 'search_path=pg_catalog, pg_temp' = any (p.proconfig))
union all select format('function %s differs from its migration', p.oid::regprocedure)
  from pg_proc p join inlined i on i.name = p.proname
  where p.pronamespace = 'cordon'::regnamespace and (
    p.proowner <> 'cordon_guard'::regrole or p.prosecdef or p.provolatile <> 's' or p.proconfig is not null
    or pg_get_function_sqlbody(p.oid) is distinct from 'RETURN ' || i.body)
union all select format('function %s runs with its owner''s rights or an open search_path', p.oid::regprocedure)
  from pg_proc p
  where p.pronamespace = 'cordon'::regnamespace
    and p.proname not in (select name from guarded union all select name from inlined)
    and (p.prosecdef or p.proconfig is null or not 'search_path=pg_catalog, pg_temp' = any (p.proconfig))
union all select format('function %s has another body than its migration', p.oid::regprocedure) from pg_proc p
  where p.pronamespace = 'cordon'::regnamespace and p.proname not in (select name from inlined) and not exists (
    select from defined d where starts_with(d.text, p.proname || '(') and split_part(d.text, '$$', 2) = p.prosrc)
union all select format('function %s is leakproof', p.oid::regprocedure) from pg_proc p
  where p.pronamespace = 'cordon'::regnamespace and p.proleakproof
union all select format('login %s may call %s', session_user, p.oid::regprocedure) from pg_proc p
  where p.pronamespace = 'cordon'::regnamespace and has_function_privilege(session_user, p.oid, 'EXECUTE')
    and p.proname not in (
      'bind', 'open_session', 'refuse_unbound', 'claims', 'current_tenant', 'writing_tenant', 'purpose', 'has_role',
      'delete_expired_keys', 'audit_days_left')
union all select format('PUBLIC may call %s', p.oid::regprocedure) from pg_proc p
  where p.pronamespace = 'cordon'::regnamespace and has_function_privilege('public', p.oid, 'EXECUTE')
union all select format('login %s may read or write %s', session_user, c.oid::regclass) from pg_class c
  where c.relnamespace = 'cordon'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') and (
    has_table_privilege(session_user, c.oid, 'DELETE, TRUNCATE, TRIGGER')
    or has_any_column_privilege(session_user, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
union all select format('%s may set backtrace_functions', case a.grantee when 0 then 'PUBLIC' else r.rolname end)
  from pg_parameter_acl p cross join aclexplode(p.paracl) a left join pg_roles r on r.oid = a.grantee
  where p.parname = 'backtrace_functions' and not coalesce(r.rolsuper or r.rolname = 'cordon_guard', false)
union all select 'cordon_guard may not set backtrace_functions'
  where not has_parameter_privilege('cordon_guard', 'backtrace_functions', 'SET')
union all select 'backtrace_functions has a value outside of transactions' where exists (
  select from pg_settings where name = 'backtrace_functions' and reset_val <> '')
union all select format('login %s may use sequence %s', session_user, c.oid::regclass) from pg_class c
  where c.relnamespace = 'cordon'::regnamespace and c.relkind = 'S'
    and has_sequence_privilege(session_user, c.oid, 'USAGE, SELECT, UPDATE')
union all select 'event trigger cordon_structure is missing or not always on' where not exists (
  select from pg_event_trigger t join pg_proc p on p.oid = t.evtfoid join pg_roles r on r.oid = p.proowner
  where t.evtname = 'cordon_structure' and t.evtevent = 'ddl_command_start' and t.evttags is null
    and t.evtenabled = 'A' and r.rolsuper)
union all select 'max_prepared_transactions is not 0' where current_setting('max_prepared_transactions')::int <> 0

-- Revokes privileges that PostgreSQL grants to PUBLIC, in one database. A superuser runs it; running it again changes
-- nothing. Without it, one tenant's SQL can read the statements of another's session and end that session, and any
-- session can create objects that shadow others. The temporary view `reaching` is src/isolation/reaching_functions.sql.
revoke all on schema public from public;
alter default privileges revoke execute on functions from public;
revoke select on pg_stat_activity, pg_stat_replication, pg_stat_ssl, pg_stat_gssapi, pg_prepared_statements, pg_cursors,
  pg_stats, pg_stats_ext, pg_stats_ext_exprs from public;
do $$
declare
  f record;
begin
  for f in select function::regprocedure as name, kept_by from reaching loop
    execute format('revoke execute on function %s from public', f.name);
    if f.kept_by is not null then
      execute format('grant execute on function %s to %I', f.name, f.kept_by);
    end if;
    -- Advisory locks are the fence's: with them, one tenant's SQL could block another tenant's writers.
    if f.name::text ~ '^pg_(try_)?advisory_' then
      execute format('grant execute on function %s to cordon_guard, cordon_operator', f.name);
    end if;
  end loop;
end $$;
drop view reaching;
-- bind() refuses a session on which a prepared statement or a cursor was left.
grant execute on function pg_prepared_statement(), pg_cursor() to cordon_guard;
grant select on pg_stat_activity, pg_stat_replication to pg_monitor;
revoke usage on language plpgsql, sql from public;
grant usage on language plpgsql, sql to cordon_owner, cordon_guard, cordon_search, cordon_operator;
-- Logins that run tenant SQL cannot change structure, not even of objects that they own by mistake: an owner could
-- disable its own row security.
create schema if not exists public;
create or replace function public.cordon_structure() returns event_trigger language plpgsql
set search_path = pg_catalog, pg_temp as $$
begin
  if session_user in ('cordon_app', 'cordon_keeper') or starts_with(session_user, 'cordon_t_') then
    raise exception '% is refused', tg_tag using errcode = '42501';
  end if;
end $$;
revoke all on function public.cordon_structure() from public;
drop event trigger if exists cordon_structure;
create event trigger cordon_structure on ddl_command_start execute function public.cordon_structure();
alter event trigger cordon_structure enable always;

-- The functions of pg_catalog that reach beyond the session of their caller, with the role that keeps them (NULL: only
-- superusers). PostgreSQL grants them to PUBLIC. The list is derived: every volatile function belongs to it unless it
-- is named below, so that a new major version adds none unseen, and so does every function that shows the statistics of
-- sessions and tables. `init` revokes them (src/ops/init/public.sql), and the isolation check looks for them.
select p.oid as function, case
    when p.proname in ('pg_cancel_backend', 'pg_terminate_backend') then 'pg_signal_backend'
    when p.proname ~ '^pg_(stat_get_|current_wal_|last_wal_|get_wal_|control_|.*_size$)' or p.proname in (
      'pg_lock_status', 'pg_blocking_pids', 'pg_safe_snapshot_blocking_pids', 'pg_prepared_xact',
      'pg_get_replication_slots', 'pg_notification_queue_usage') then 'pg_monitor'
  end as kept_by
  from pg_catalog.pg_proc p
  where p.pronamespace = 'pg_catalog'::regnamespace and (
    p.proname ~ '^(pg_stat_get_|pg_(try_)?advisory_|lo_)'
    or p.proname in ('loread', 'lowrite', 'pg_cursor', 'pg_prepared_statement', 'pg_get_replication_slots')
    or p.provolatile = 'v'
      -- Nobody can call these by SQL.
      and not 'internal'::regtype = any (p.proargtypes) and p.prorettype not in (
        'trigger'::regtype, 'event_trigger'::regtype, 'language_handler'::regtype)
      and p.proname not in (
        -- Clocks and random numbers.
        'clock_timestamp', 'timeofday', 'gen_random_uuid', 'uuidv4', 'uuidv7', 'random', 'random_normal',
        'array_sample', 'array_shuffle',
        -- The caller's own session. set_config() is needed, and checks the rights to each parameter.
        'set_config', 'current_query', 'pg_sleep', 'pg_sleep_for', 'pg_sleep_until', 'pg_is_in_recovery',
        -- Sequences, with the rights of the sequence.
        'nextval', 'currval', 'lastval', 'setval'))

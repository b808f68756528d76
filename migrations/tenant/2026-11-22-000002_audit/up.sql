-- The audit log of a tenant schema. Rows are inserted by audit() and by the triggers of the chart, whose functions
-- cordon_guard owns. They take the principal and the purpose from the binding and the time from the database. The
-- server cannot insert, change or delete a row.

create table audit_log (
  tenant_id uuid not null,
  id uuid not null default gen_random_uuid(),
  recorded_at timestamptz not null default clock_timestamp(),
  xid xid8 not null default pg_current_xact_id(),
  principal_id uuid not null,
  issuer text,
  subject text,
  name text,
  acting text,
  roles text[] not null,
  roles_before text[],                  -- only in rows about a change of roles
  purpose text not null,
  request_id uuid not null,
  trace_id text,
  ip inet,
  user_agent text,
  action text not null,
  outcome text not null default 'success' check (outcome in ('success', 'not_found', 'denied', 'failed')),
  resource_type text not null,
  patient_id uuid,
  resource_ids uuid[] not null,
  fields text[],
  detail_sealed bytea,
  primary key (tenant_id, recorded_at, id)
) partition by range (recorded_at);
create index on audit_log (tenant_id, xid);
create index on audit_log (tenant_id, patient_id, recorded_at);
create index on audit_log (tenant_id, principal_id, recorded_at);
create table audit_log_rest partition of audit_log default;

do $$
declare
  home name := cordon.home();
  pin uuid := cordon.pin(home);
begin
  execute 'alter table audit_log owner to cordon_owner';
  execute 'alter table audit_log enable row level security';
  execute 'alter table audit_log force row level security';
  if pin is not null then
    execute format('alter table audit_log add constraint audit_log_pin check (tenant_id = %L)', pin);
  end if;
  call cordon.enclose_partition(home, 'audit_log_rest');
  call cordon.extend_audit(home);
  -- The server reads it for principals whose signed roles allow it, and keepers for operations. Only functions of
  -- cordon_guard insert.
  execute format('create policy reader on audit_log for select to %I using (tenant_id = (select cordon.current_tenant())
    and ((select cordon.has_role(''auditor'')) or (select cordon.has_role(''records''))))', cordon.app_login());
  execute 'create policy keeper on audit_log for select to cordon_keeper
    using (tenant_id = (select cordon.current_tenant()))';
  execute 'create policy guard on audit_log for insert to cordon_guard
    with check (tenant_id = (select cordon.current_tenant()))';
  execute format('grant select on audit_log to %I, cordon_keeper', cordon.app_login());
  execute 'grant insert on audit_log to cordon_guard';

  -- The guard calls audit() before COMMIT with the hex of a JSON array of rows. It returns the number of rows that it
  -- stored.
  execute format($f$
    create function %1$I.audit(rows_hex text) returns int
    language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $q$
    declare
      me text[] := cordon.claims();
      actor jsonb := convert_from(decode(me[6], 'hex'), 'utf8')::jsonb;
      stored int;
    begin
      insert into %1$I.audit_log (tenant_id, principal_id, issuer, subject, name, acting, roles, purpose, request_id,
          trace_id, ip, user_agent, action, outcome, resource_type, patient_id, resource_ids, fields, detail_sealed)
        select me[1]::uuid, me[2]::uuid, actor->>0, actor->>1, actor->>2, actor->>3, string_to_array(me[3], ' '), me[4],
          me[5]::uuid, r.trace_id, r.ip, r.user_agent, r.action, coalesce(r.outcome, 'success'), r.resource_type,
          r.patient_id, coalesce(r.resource_ids, '{}'), r.fields, decode(r.detail, 'hex')
        from jsonb_to_recordset(convert_from(decode(rows_hex, 'hex'), 'utf8')::jsonb)
          as r(trace_id text, ip inet, user_agent text, action text, outcome text, resource_type text, patient_id uuid,
            resource_ids uuid[], fields text[], detail text);
      get diagnostics stored = row_count;
      return stored;
    end $q$ $f$, home);
  execute format('revoke all on function %I.audit(text) from public', home);
  execute format('grant create, usage on schema %I to cordon_guard', home);
  execute format('alter function %I.audit(text) owner to cordon_guard', home);
  execute format('revoke create on schema %I from cordon_guard', home);
  execute format('grant execute on function %I.audit(text) to %I, cordon_keeper', home, cordon.app_login());
end $$;

create trigger b_lock before update or delete on audit_log for each row execute function cordon.refuse();
alter table audit_log enable always trigger b_lock;
create trigger z_truncate before truncate on audit_log execute function cordon.refuse();
alter table audit_log enable always trigger z_truncate;

-- The database's part of the guard: signed bindings, the fence, and the policies and triggers of every tenant table.
-- Runs as cordon_operator, once in each database. Schema `cordon` holds functions, keys and fences, and no chart data.

create schema cordon;
revoke all on schema cordon from public;
alter default privileges in schema cordon revoke all on functions from public;
grant usage on schema cordon to cordon_keeper, cordon_guard, cordon_search;
-- A new owner of a function needs CREATE on its schema. It is revoked at the end of this file.
grant create on schema cordon to cordon_owner, cordon_guard;

-- The login that may run tenant SQL in this database: cordon_app, or the login of the tenant that the database belongs
-- to.
create table cordon.settings (
  one boolean primary key default true check (one),
  app_login name not null
);
insert into cordon.settings values (true, 'cordon_app');
alter table cordon.settings owner to cordon_owner;

create function cordon.app_login() returns name language sql stable set search_path = pg_catalog, pg_temp
  as $$ select app_login from cordon.settings $$;
revoke all on function cordon.app_login() from public;
alter function cordon.app_login() owner to cordon_owner;

-- ------------------------------------------------------------------ keys of the binding, and the fence
-- HMAC-SHA-256 key blocks, already combined with 0x36 and 0x5c (RFC 2104). They are read only as columns of a
-- statement, because a key in a plpgsql variable becomes a constant of a custom plan, which debug_print_plan prints.
create table cordon.binding_keys (
  kid int primary key,
  ipad bytea not null check (length(ipad) = 64),
  opad bytea not null check (length(opad) = 64)
);
alter table cordon.binding_keys owner to cordon_guard;

-- The fence: one row for each tenant placed in this database, with its schema, the generation of its placement and its
-- state. The catalog decides about tenants, and operations copy its decision into this row. bind() reads it in the
-- transaction that it guards.
create table cordon.tenants (
  tenant_id uuid primary key,
  schema_name name not null,
  generation int not null default 1,
  state text not null check (state in ('provisioning', 'active', 'readonly', 'suspended', 'moved'))
);
alter table cordon.tenants owner to cordon_guard;

-- ------------------------------------------------------------------ the binding
-- Numbers bindings. A session takes a block of numbers at once (CACHE), so that nextval() counts within the session,
-- without WAL, and a rollback does not bring a number back. No login may use the sequence, only bind() and
-- open_session() advance it.
create sequence cordon.bindings cache 1000000;
alter sequence cordon.bindings owner to cordon_guard;

-- Returns the number from which the calling session counts its bindings. The server calls it when it opens a session.
create function cordon.open_session() returns bigint
language sql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp
  as $$ select nextval('cordon.bindings') $$;

-- Binds the transaction to a tenant, a principal and a purpose.
-- `claims` has 7 parts, separated by commas: tenant, principal, roles (separated by blanks), purpose, request, actor,
-- action. Ids are written without hyphens.
--   actor: hex of a JSON array [issuer, subject, name, acting], and for a write [.., ip, user agent, trace id];
--   action: the audit action of a write, with a blank instead of the dot; empty where a write has none.
-- The MAC (HMAC-SHA-256, RFC 2104) covers the backend's process id, the number of the binding, the expiry in
-- milliseconds since 1970, the generation of the placement and the claims. Each call uses up one number of the session,
-- whatever comes of it, so a ticket is good for one call: neither another session nor a later transaction can use it
-- again. It expires after ten seconds at most.
-- The claims are kept in the parameter backtrace_functions, which only superusers and cordon_guard may set
-- (PostgreSQL 15: GRANT SET ON PARAMETER). It is set for this transaction: PostgreSQL itself clears it at COMMIT and
-- ROLLBACK, also inside a message with several transactions. Its own effect, a backtrace in the log for errors in
-- functions of these names, does not occur, because no function of PostgreSQL has such a name.
-- Errors: 42501 refused; CO001 the placement changed and has to be looked up again; CO002 suspended; CO003 being moved.
create function cordon.bind(kid int, number bigint, expiry_ms bigint, generation int, claims text, mac text)
returns void
language plpgsql volatile parallel unsafe security definer set search_path = pg_catalog, pg_temp as $$
declare
  next_number bigint := nextval('cordon.bindings');
  p text[] := string_to_array(claims, ',');
  genuine boolean;
  fence record;
  now_ms bigint := extract(epoch from clock_timestamp()) * 1000;
begin
  if current_setting('backtrace_functions') <> '' then
    raise exception 'already bound' using errcode = '42501';
  end if;
  -- A PREPARE or a held cursor of an earlier transaction can carry that transaction's rows. The driver's own prepared
  -- statements are made by the protocol, not by SQL, and therefore pass.
  if exists (select from pg_prepared_statement() s where s.from_sql)
    or exists (select from pg_cursor() c where c.is_holdable) then
    raise exception 'binding refused' using errcode = '42501';
  end if;
  select true into genuine from cordon.binding_keys k
    where k.kid = bind.kid and bind.number = next_number and array_length(p, 1) = 7
      and expiry_ms between now_ms and now_ms + 10000
      and mac = encode(sha256(k.opad || sha256(k.ipad || convert_to(concat_ws('.', 'bind.v2', pg_backend_pid(),
        bind.number, expiry_ms, bind.generation, claims), 'utf8'))), 'hex');
  if genuine is not true or (p[4] not in ('read', 'write', 'import') and session_user <> 'cordon_keeper') then
    raise exception 'binding refused' using errcode = '42501';
  end if;
  if p[4] not in ('read', 'backup', 'seal') then
    -- The lock is taken before the state is read. Only a snapshot per statement sees a change of state that was
    -- committed while this transaction waited for the lock.
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception 'a write binds in read committed' using errcode = '25001';
    end if;
    perform pg_advisory_xact_lock_shared(hashtextextended(p[1]::uuid::text, 7));
    -- Imports into one tenant run one after the other, so that each finds what the earlier one stored.
    if p[4] = 'import' then
      perform pg_advisory_xact_lock(hashtextextended(p[1]::uuid::text, 8));
    end if;
  end if;
  select t.state, t.generation into fence from cordon.tenants t where t.tenant_id = p[1]::uuid;
  if not found or fence.generation <> bind.generation or fence.state = 'moved' then
    raise exception 'placement changed' using errcode = 'CO001';
  end if;
  if p[4] in ('read', 'write', 'import') then
    if fence.state in ('suspended', 'provisioning') then
      raise exception 'tenant suspended' using errcode = 'CO002';
    end if;
    if fence.state = 'readonly' and p[4] <> 'read' then
      raise exception 'tenant is being moved' using errcode = 'CO003';
    end if;
  end if;
  perform set_config('backtrace_functions', claims, true),
          -- These two are for people and tools. No policy reads them.
          set_config('app.current_tenant', p[1], true),
          set_config('app.current_user', p[2], true);
end $$;

-- Raises 42501. The functions below call it where the transaction is not bound.
create function cordon.refuse_unbound() returns text
language plpgsql stable parallel restricted set search_path = pg_catalog, pg_temp as $$
begin
  raise exception 'tenant binding refused' using errcode = '42501';
end $$;

-- The next five are SQL functions with standard bodies: their names are resolved when they are created, so they need no
-- fixed search_path, and the planner inlines them into the policies, which a search_path would prevent.

-- Returns the parts of the claims that this transaction is bound with, or raises 42501.
create function cordon.claims() returns text[] language sql stable parallel restricted
  return string_to_array(coalesce(nullif(current_setting('backtrace_functions'), ''), cordon.refuse_unbound()), ',');

-- Returns the bound tenant, or raises 42501.
create function cordon.current_tenant() returns uuid language sql stable parallel restricted
  return substr(coalesce(nullif(current_setting('backtrace_functions'), ''), cordon.refuse_unbound()), 1, 32)::uuid;

-- Returns the bound tenant for WITH CHECK, or raises 42501 where the binding's purpose only reads. A reading binding
-- does not take the fence's lock and must therefore not write.
create function cordon.writing_tenant() returns uuid language sql stable parallel restricted
  return case when split_part(current_setting('backtrace_functions'), ',', 4) in ('', 'read', 'backup', 'seal')
    then cordon.refuse_unbound() else substr(current_setting('backtrace_functions'), 1, 32) end::uuid;

-- Returns the purpose of the binding, or raises 42501.
create function cordon.purpose() returns text language sql stable parallel restricted
  return split_part(coalesce(nullif(current_setting('backtrace_functions'), ''), cordon.refuse_unbound()), ',', 4);

-- Returns whether the bound principal has the role, or raises 42501.
create function cordon.has_role(role text) returns boolean language sql stable parallel restricted
  return role = any (string_to_array((cordon.claims())[3], ' '));

-- ------------------------------------------------------------------ triggers
-- Row trigger a_stamp: records the writing transaction in every row.
create function cordon.stamp() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  new.changed_in := pg_current_xact_id();
  return new;
end $$;

-- Statement triggers own_insert, own_update and own_delete: refuse rows of any tenant but the bound one. They repeat
-- row security, for the case that it is off or bypassed, once per statement and not once per row. An update passes its
-- old rows; trigger a_keys ensures that its new rows have the same tenant.
create function cordon.own_rows() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if exists (select from touched where tenant_id <> (select cordon.writing_tenant())) then
    raise exception '% on % is refused', tg_op, tg_table_name using errcode = '42501';
  end if;
  return null;
end $$;

-- Refuses the statement.
create function cordon.refuse() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  raise exception '% on % is refused', tg_op, tg_table_name using errcode = '42501';
end $$;

-- Row trigger b_lock of clinical_notes. A write creates only drafts of the bound principal, and changes only the status
-- and the current version of drafts. After that, a note that waits for its cosigner may become a signed one, and
-- nothing else may change: another text needs a signature of its own, which no SQL can make. An import may correct the
-- notes that an import created, except for their tenant, id, patient and source key. No note is deleted.
create function cordon.note_lock() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  may_change text[] := '{status,version,updated_at,changed_in}';
  me uuid;
begin
  if tg_op = 'INSERT' then
    me := (cordon.claims())[2]::uuid;
    if cordon.purpose() <> 'write' or new.status = 'DRAFT' and (new.author_id = me or new.entered_by = me) then
      return new;
    end if;
  elsif tg_op = 'UPDATE' then
    if old.status = 'DRAFT' and (cordon.purpose() <> 'write'
      or (to_jsonb(new) - (may_change || '{current_version,signed_at}')) =
        (to_jsonb(old) - (may_change || '{current_version,signed_at}'))) then
      return new;
    end if;
    -- Only notes that an import created have a source key.
    if new.status <> 'DRAFT' and cordon.purpose() = 'import' and new.source_key = old.source_key then
      return new;
    end if;
    if old.status = 'UNCOSIGNED' and new.status = 'SIGNED'
      and (to_jsonb(new) - may_change) = (to_jsonb(old) - may_change) then
      return new;
    end if;
  end if;
  raise exception '% on % is refused', tg_op, tg_table_name using errcode = '42501';
end $$;

-- Row trigger b_lock of note_versions, note_signers and note_signatures: a write adds rows only to a draft that the
-- bound principal works on, and signatures only of the bound principal. The author and the typist may name signers;
-- they and the named signers may add a version or a signature. The row lock makes a concurrent signing of the note
-- wait.
create function cordon.draft_lock() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  me uuid;
  works_on_it boolean;
begin
  if cordon.purpose() = 'write' then
    me := (cordon.claims())[2]::uuid;
    execute format('select coalesce(n.author_id = $3 or n.entered_by = $3, false)
          or $4 and exists (select from %1$I.note_signers s
            where s.tenant_id = $1 and s.note_id = $2 and s.staff_id = $3)
        from %1$I.clinical_notes n where n.tenant_id = $1 and n.id = $2 and n.status = ''DRAFT'' for share of n',
        tg_table_schema)
      into works_on_it using new.tenant_id, new.note_id, me, tg_table_name <> 'note_signers';
    if works_on_it is not true or tg_table_name = 'note_signatures' and (to_jsonb(new)->>'signer_id')::uuid <> me then
      raise exception '% on % is refused', tg_op, tg_table_name using errcode = '42501';
    end if;
  end if;
  return new;
end $$;

-- Row trigger b_lock of staff: a write changes the row of the bound principal only.
create function cordon.staff_lock() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  if cordon.purpose() = 'write' and new.id <> (cordon.claims())[2]::uuid then
    raise exception '% on % is refused', tg_op, tg_table_name using errcode = '42501';
  end if;
  return new;
end $$;

-- Statement triggers audit_insert, audit_update and audit_delete: write one audit row per statement and patient, which
-- names every row that the statement wrote. Who, for what purpose and in which request come from the binding. The
-- action is the ticket's, and where it has none the statement's verb. Raises 55000 on a table that it has no words for:
-- such a table cannot be written until this function knows its resource type and its patient column.
create function cordon.audit_write() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  me text[] := cordon.claims();
  actor jsonb := convert_from(decode(me[6], 'hex'), 'utf8')::jsonb;
  record_type text;
  patient name;
begin
  select t.record_type, t.patient into record_type, patient
    from (values ('patients', 'patient', 'id'),
        ('encounters', 'encounter', 'patient_id'),
        ('clinical_notes', 'note', 'patient_id')) t(tbl, record_type, patient)
    where t.tbl = tg_table_name;
  if record_type is null then
    raise exception 'table % is unknown to audit_write()', tg_table_name using errcode = '55000';
  end if;
  -- An operation with one of these purposes writes one audit row for the whole of its work.
  if me[4] in ('move', 'restore', 'reseal', 'migrate') then
    return null;
  end if;
  execute format(
    'insert into %I.audit_log (tenant_id, principal_id, issuer, subject, name, acting, roles, purpose, request_id,
       ip, user_agent, trace_id, action, resource_type, patient_id, resource_ids)
     select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, c.%2$I, array_agg(c.id)
       from changed c group by c.%2$I',
    tg_table_schema, patient)
    using me[1]::uuid, me[2]::uuid, actor->>0, actor->>1, actor->>2, actor->>3, string_to_array(me[3], ' '), me[4],
          me[5]::uuid, (actor->>4)::inet, actor->>5, actor->>6,
          coalesce(nullif(replace(me[7], ' ', '.'), ''), lower(tg_op)), record_type;
  return null;
end $$;

-- Statement trigger audit_roles of staff: where the roles of a staff row change, it writes an audit row with the roles
-- before and after.
create function cordon.audit_roles() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  me text[] := cordon.claims();
  actor jsonb := convert_from(decode(me[6], 'hex'), 'utf8')::jsonb;
begin
  execute format(
    'insert into %I.audit_log (tenant_id, principal_id, issuer, subject, name, acting, roles, roles_before, purpose,
       request_id, ip, user_agent, trace_id, action, resource_type, resource_ids, fields)
     select $1, $2, $3, $4, $5, $6, n.roles, o.roles, $7, $8, $9, $10, $11, ''staff.roles'', ''staff'', array[n.id],
         ''{roles}''
       from new_rows n join old_rows o on o.tenant_id = n.tenant_id and o.id = n.id
       where n.roles is distinct from o.roles and o.roles is not null',
    tg_table_schema)
    using me[1]::uuid, me[2]::uuid, actor->>0, actor->>1, actor->>2, actor->>3, me[4], me[5]::uuid,
          (actor->>4)::inet, actor->>5, actor->>6;
  return null;
end $$;

-- Deletes idempotency keys of the bound tenant that are older than a day: the given key of the given principal, and up
-- to `max_rows` others that no other transaction is deleting. Returns how many it deleted. The server has no DELETE,
-- because whoever may delete from a table may also lock it.
create function cordon.delete_expired_keys(principal uuid, key bytea, max_rows int) returns int
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
  tenant uuid := cordon.writing_tenant();
  home name := (select t.schema_name from cordon.tenants t where t.tenant_id = tenant);
  deleted int;
begin
  execute format('delete from %1$I.idempotency_keys k
      where k.tenant_id = $1 and k.created_at < now() - interval ''1 day''
        and (k.principal_id = $2 and k.key_hash = $3 or k.id in (
          select o.id from %1$I.idempotency_keys o
            where o.tenant_id = $1 and o.created_at < now() - interval ''1 day''
            order by o.created_at limit $4 for update skip locked))', home)
    using tenant, principal, key, max_rows;
  get diagnostics deleted = row_count;
  return deleted;
end $$;

-- ------------------------------------------------------------------ enclosing a table
-- Returns the columns of a table's primary, unique and foreign keys, and created_at.
create function cordon.pinned_columns(tbl regclass) returns setof name
language sql stable set search_path = pg_catalog, pg_temp as $$
  select distinct a.attname from pg_attribute a
    where a.attrelid = tbl and a.attnum > 0 and (a.attname = 'created_at' or exists (
      select from pg_constraint k
        where k.conrelid = tbl and k.contype in ('p', 'u', 'f') and a.attnum = any (k.conkey)))
$$;

-- Puts a table of the schema home() behind the walls: owner, forced row security with its policy, the tenant pin,
-- triggers and grants. The migration that creates a table calls it, after its keys. `app` lists the privileges of the
-- server's login: UPDATE only for the columns that change, because UPDATE of a whole table also allows LOCK TABLE.
-- Keepers get SELECT, INSERT and UPDATE. DELETE is granted only where `app` names it. A table is audited unless the
-- caller says otherwise; the isolation check lists the tables that are not (src/isolation/schema.sql). `movable` names
-- the columns of foreign keys that may change; all other columns of keys, and created_at, never change.
create procedure cordon.enclose(tbl name, app text default 'select, insert', audited boolean default true,
  movable name[] default '{}')
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  home name := cordon.home();
  pin uuid := cordon.pin(home);
  verb text;
  changed text;
begin
  execute format('alter table %I.%I owner to cordon_owner', home, tbl);
  execute format('alter table %I.%I enable row level security', home, tbl);
  execute format('alter table %I.%I force row level security', home, tbl);
  execute format('create policy tenant on %I.%I using (tenant_id = (select cordon.current_tenant()))
    with check (tenant_id = (select cordon.writing_tenant()))', home, tbl);
  if pin is not null then
    execute format('alter table %I.%I add constraint %I check (tenant_id = %L)', home, tbl, tbl || '_pin', pin);
  end if;
  select string_agg(format('old.%1$I is distinct from new.%1$I', k.col), ' or ' order by k.col) into changed
    from cordon.pinned_columns(format('%I.%I', home, tbl)::regclass) k(col) where k.col <> all (movable);
  execute format('create trigger a_keys before update on %I.%I
    for each row when (%s) execute function cordon.refuse()', home, tbl, changed);
  execute format('create trigger a_stamp before insert or update on %I.%I
    for each row execute function cordon.stamp()', home, tbl);
  execute format('create trigger z_truncate before truncate on %I.%I execute function cordon.refuse()', home, tbl);
  execute format('alter table %I.%I enable always trigger a_keys', home, tbl);
  execute format('alter table %I.%I enable always trigger a_stamp', home, tbl);
  execute format('alter table %I.%I enable always trigger z_truncate', home, tbl);
  foreach verb in array '{insert,update,delete}'::text[] loop
    execute format('create trigger own_%3$s after %3$s on %1$I.%2$I referencing %4$s table as touched
      for each statement execute function cordon.own_rows()',
      home, tbl, verb, case verb when 'insert' then 'new' else 'old' end);
    execute format('alter table %I.%I enable always trigger own_%s', home, tbl, verb);
  end loop;
  if audited then
    foreach verb in array '{insert,update,delete}'::text[] loop
      execute format('create trigger audit_%3$s after %3$s on %1$I.%2$I referencing %4$s table as changed
        for each statement execute function cordon.audit_write()',
        home, tbl, verb, case verb when 'delete' then 'old' else 'new' end);
      execute format('alter table %I.%I enable always trigger audit_%s', home, tbl, verb);
    end loop;
  end if;
  execute format('grant %s on %I.%I to %I', app, home, tbl, cordon.app_login());
  execute format('grant select, insert, update on %I.%I to cordon_keeper', home, tbl);
end $$;

-- Returns the schema that a migration runs in: `shared`, `t_<id>` or `tenant`. The runner of migrations sets it.
create function cordon.home() returns name language sql stable set search_path = pg_catalog, pg_temp
  as $$ select current_setting('cordon.home')::name $$;

-- Returns the tenant that a schema belongs to, or null for `shared`. Raises an error where the schema belongs to no
-- tenant.
create function cordon.pin(home name) returns uuid language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  tenant uuid;
begin
  if home = 'shared' then
    return null;
  end if;
  select t.tenant_id into strict tenant from cordon.tenants t where t.schema_name = home;
  return tenant;
end $$;

-- Creates the missing yearly partitions of a schema's audit log, from this year to `years` ahead. A partition has
-- forced row security, no policy and no grant, so it can be reached through its parent only.
create procedure cordon.extend_audit(home name, years int default 3)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  y int;
begin
  for y in extract(year from now())::int .. extract(year from now())::int + years loop
    if to_regclass(format('%I.audit_log_%s', home, y)) is null then
      execute format('create table %1$I.audit_log_%2$s partition of %1$I.audit_log for values from (%3$L) to (%4$L)',
        home, y, y || '-01-01T00:00:00Z', (y + 1) || '-01-01T00:00:00Z');
      call cordon.enclose_partition(home, ('audit_log_' || y)::name);
    end if;
  end loop;
end $$;

-- Returns for how many more days the audit logs of this database have partitions, for the schema that runs out first.
-- The readiness check calls it. It is written in plpgsql so that the check also notices a server whose packages were
-- upgraded under it: such a server still runs `select 1` but cannot load plpgsql.
create function cordon.audit_days_left() returns int
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
declare
  last_year int;
begin
  select min(logs.last_year) into last_year from (
    select coalesce(max(substring(part.relname from '^audit_log_(\d{4})$')::int), 1) as last_year
      from pg_inherits i join pg_class part on part.oid = i.inhrelid join pg_class log on log.oid = i.inhparent
      where log.relname = 'audit_log' group by log.oid) as logs;
  return coalesce(greatest(make_date(last_year + 1, 1, 1) - current_date, 0), 0);
end $$;

-- Gives a partition of the audit log its owner and forced row security.
create procedure cordon.enclose_partition(home name, partition name)
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  execute format('alter table %I.%I owner to cordon_owner', home, partition);
  execute format('alter table %I.%I enable row level security', home, partition);
  execute format('alter table %I.%I force row level security', home, partition);
end $$;

-- Makes `login` the only login that may run tenant SQL in this database.
create procedure cordon.adopt(login name) language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  previous name := cordon.app_login();
begin
  execute format('revoke all on schema cordon from %I', previous);
  execute format('revoke all on all functions in schema cordon from %I', previous);
  update cordon.settings set app_login = login;
  execute format('grant usage on schema cordon to %I', login);
  execute format('grant execute on function cordon.open_session(),
    cordon.bind(int, bigint, bigint, int, text, text), cordon.refuse_unbound(), cordon.claims(),
    cordon.current_tenant(), cordon.writing_tenant(), cordon.purpose(), cordon.has_role(text),
    cordon.delete_expired_keys(uuid, bytea, int), cordon.audit_days_left() to %I', login);
end $$;

-- ------------------------------------------------------------------ owners and rights
alter function cordon.open_session() owner to cordon_guard;
alter function cordon.bind(int, bigint, bigint, int, text, text) owner to cordon_guard;
alter function cordon.refuse_unbound() owner to cordon_guard;
alter function cordon.claims() owner to cordon_guard;
alter function cordon.current_tenant() owner to cordon_guard;
alter function cordon.writing_tenant() owner to cordon_guard;
alter function cordon.purpose() owner to cordon_guard;
alter function cordon.has_role(text) owner to cordon_guard;
alter function cordon.audit_write() owner to cordon_guard;
alter function cordon.delete_expired_keys(uuid, bytea, int) owner to cordon_guard;
alter function cordon.audit_roles() owner to cordon_guard;
alter function cordon.stamp() owner to cordon_owner;
alter function cordon.own_rows() owner to cordon_owner;
alter function cordon.refuse() owner to cordon_owner;
alter function cordon.note_lock() owner to cordon_owner;
alter function cordon.draft_lock() owner to cordon_owner;
alter function cordon.staff_lock() owner to cordon_owner;
alter function cordon.pinned_columns(regclass) owner to cordon_owner;
alter function cordon.audit_days_left() owner to cordon_owner;
revoke all on all functions in schema cordon from public;
revoke all on all procedures in schema cordon from public;
grant execute on function cordon.open_session(), cordon.bind(int, bigint, bigint, int, text, text),
  cordon.refuse_unbound(), cordon.claims(), cordon.current_tenant(), cordon.writing_tenant(), cordon.purpose(),
  cordon.has_role(text) to cordon_keeper, cordon_search, cordon_owner;
revoke create on schema cordon from cordon_guard, cordon_owner;
call cordon.adopt('cordon_app');

-- Checks the walls around the tenant schema $1 with the privileges of the server's own login. $2 is the text of the
-- migrations of a tenant schema. Each row of the result names a wall that is down.
with tables as (
  select c.*, (c.relname = 'audit_log' or c.relispartition) as is_audit
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1 and c.relkind in ('r', 'p') and c.relname <> '__diesel_schema_migrations'
),
-- Every table of the schema has the audit triggers, except for these. A table that a migration adds is therefore
-- audited, or stands here with its reason.
unaudited(tbl, reason) as (values
  ('staff', 'A change of roles is audited by the trigger audit_roles. The other columns hold no data of a patient.'),
  ('patient_identifiers', 'Written in one transaction with their patient, whose row is audited.'),
  ('patient_terms', 'Written in one transaction with their patient, whose row is audited.'),
  ('note_versions', 'Written in one transaction with their note, whose row is audited.'),
  ('note_signers', 'Written in one transaction with their note, whose row is audited.'),
  ('note_signatures', 'Written in one transaction with their note, whose row is audited.'),
  ('note_types', 'Codes and their display texts, no data of a patient.'),
  ('idempotency_keys', 'Hashes and the id of a record whose row is audited.')),
-- The trigger, its function, and when it fires (pg_trigger.tgtype).
expected(tbl, trg, fn, fires) as (
  values ('clinical_notes', 'b_lock', 'note_lock', 31), ('staff', 'b_lock', 'staff_lock', 23),
    ('audit_log', 'b_lock', 'refuse', 27), ('audit_log', 'z_truncate', 'refuse', 34),
    ('staff', 'audit_roles', 'audit_roles', 16)
  union all select tbl, trg, fn, fires from unnest('{note_versions,note_signers,note_signatures}'::name[]) tbl,
    (values ('b_lock', 'draft_lock', 7), ('c_lock', 'refuse', 27)) t(trg, fn, fires)
  union all select relname, trg, 'audit_write', fires from tables,
    (values ('audit_insert', 4), ('audit_delete', 8), ('audit_update', 16)) t(trg, fires)
    where not is_audit and relname not in (select tbl from unaudited)
  union all select relname, trg, fn, fires from tables,
    (values ('a_stamp', 'stamp', 23), ('own_insert', 'own_rows', 4), ('own_delete', 'own_rows', 8),
      ('own_update', 'own_rows', 16), ('z_truncate', 'refuse', 34)) t(trg, fn, fires)
    where not is_audit
),
audit_policy(name, command, role) as (
  values ('reader', 'r', session_user), ('keeper', 'r', 'cordon_keeper'), ('guard', 'a', 'cordon_guard')),
-- Columns of keys that may change.
movable(tbl, col) as (
  select 'clinical_notes', unnest('{encounter_id,author_id,type_code,current_version}'::name[])),
-- The columns that the server may update.
updated(tbl, cols) as (
  values ('staff', '{name,roles,updated_at,version}'::name[]),
    ('patients', '{sex,deceased_at,name_sealed,birth_date_sealed,contact_sealed,source_sealed,source_hash,
      source_version,updated_at,version}'),
    ('patient_identifiers', '{position,retired_at}'),
    ('patient_terms', '{terms}'),
    ('encounters', '{status,class,reason_sealed,cancel_reason_sealed,started_at,ended_at,ordered_at,identifier_key,
      source_sealed,source_hash,source_version,updated_at,version}'),
    ('clinical_notes', '{encounter_id,author_id,status,type_code,current_version,authored_at,signed_at,source_status,
      source_sealed,source_hash,source_version,updated_at,version}'),
    ('idempotency_keys', '{record_id}')),
-- The only privileges on single columns.
column_grant(tbl, col, what, role) as (
  select tbl, unnest(cols), 'UPDATE', session_user from updated
  union all values ('patient_terms', 'tenant_id', 'SELECT', session_user),
    ('patient_terms', 'patient_id', 'SELECT', session_user)
  union all select 'patient_terms', col, 'SELECT', 'cordon_search'
    from unnest('{tenant_id,patient_id,terms,created_at}'::text[]) col),
-- The functions of the schema, their owners, and their bodies in the migrations.
defined(name, owner, body) as (
  select split_part(text, '(', 1),
    case split_part(text, '(', 1) when 'audit' then 'cordon_guard' else 'cordon_search' end,
    split_part(text, '$q$', 2)
  from regexp_split_to_table($2, '\ncreate function %1\$I\.|\n +create function %1\$I\.')
    with ordinality as t(text, nth)
  where nth > 1)
select format('schema %s has no tables', $1) as wall where not exists (select from tables where relname = 'patients')
union all select format('table %s: row security is not enabled and forced', oid::regclass) from tables
  where not relrowsecurity or not relforcerowsecurity
union all select format('table %s is owned by %s', oid::regclass, relowner::regrole) from tables
  where relowner <> 'cordon_owner'::regrole
union all select format('table %s: policy tenant is missing or altered', t.oid::regclass) from tables t
  where not t.is_audit and not exists (
  select from pg_policy p
  where p.polrelid = t.oid and p.polname = 'tenant' and p.polcmd = '*' and p.polpermissive and p.polroles = '{0}'
    and pg_get_expr(p.polqual, p.polrelid) = '(tenant_id = ( SELECT cordon.current_tenant() AS current_tenant))'
    and pg_get_expr(p.polwithcheck, p.polrelid) = '(tenant_id = ( SELECT cordon.writing_tenant() AS writing_tenant))')
union all select format('table %s has policy %s, which no migration creates', t.oid::regclass, p.polname)
  from tables t join pg_policy p on p.polrelid = t.oid
  where not (not t.is_audit and p.polname = 'tenant')
    and not (t.relname = 'audit_log' and p.polname in ('reader', 'keeper', 'guard'))
    and not (t.relname = 'patient_terms' and p.polname = 'search')
union all select 'policy search of patient_terms is missing, altered or for others' where not exists (
  select from pg_policy p join tables t on t.oid = p.polrelid
  where t.relname = 'patient_terms' and p.polname = 'search' and p.polcmd = 'r' and p.polpermissive
    and p.polroles = array['cordon_search'::regrole::oid] and pg_get_expr(p.polqual, p.polrelid) = 'true')
union all select format('policy %s of %s is altered', p.polname, t.oid::regclass)
  from tables t join pg_policy p on p.polrelid = t.oid
  where t.relname = 'audit_log'
    and coalesce(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) is distinct from
    case p.polname when 'reader' then '((tenant_id = ( SELECT cordon.current_tenant() AS current_tenant)) AND '
        || '(( SELECT cordon.has_role(''auditor''::text) AS has_role) OR '
        || '( SELECT cordon.has_role(''records''::text) AS has_role)))'
      else '(tenant_id = ( SELECT cordon.current_tenant() AS current_tenant))' end
union all select format('policy %s of audit_log is missing, altered or for others', e.name) from audit_policy e
  where not exists (
  select from pg_policy p join tables t on t.oid = p.polrelid
  where t.relname = 'audit_log' and p.polname = e.name and p.polcmd = e.command::"char"
    and p.polpermissive and p.polroles = array(select r.oid from pg_roles r where r.rolname = e.role))
union all select format('login %s may %s %s', session_user, p, t.oid::regclass)
  from tables t, unnest('{DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
  where has_table_privilege(session_user, t.oid, p)
union all select format('login %s may update all columns of %s', session_user, t.oid::regclass) from tables t
  where has_table_privilege(session_user, t.oid, 'UPDATE')
union all select format('table %s: trigger a_keys is missing, altered or not always on', t.oid::regclass) from tables t
  where not t.is_audit and not exists (
  select from pg_trigger g where g.tgrelid = t.oid and g.tgname = 'a_keys' and g.tgenabled = 'A' and g.tgtype = 19
    and g.tgfoid = 'cordon.refuse()'::regprocedure and g.tgattr::text = ''
    and pg_get_triggerdef(g.oid) like '%WHEN ((' || (
      select string_agg(format('(old.%1$I IS DISTINCT FROM new.%1$I)', a.attname), ' OR ' order by a.attname)
      from pg_attribute a where a.attrelid = t.oid and a.attnum > 0
        and not exists (select from movable m where m.tbl = t.relname and m.col = a.attname)
        and (a.attname = 'created_at' or exists (select from pg_constraint k
          where k.conrelid = t.oid and k.contype in ('p', 'u', 'f') and a.attnum = any (k.conkey)))
    ) || '))%')
union all select format('login %s may write %s', session_user, t.oid::regclass) from tables t
  where t.is_audit and has_any_column_privilege(session_user, t.oid, 'INSERT, UPDATE')
union all select format('login %s reaches partition %s', session_user, t.oid::regclass) from tables t
  where t.relispartition and has_any_column_privilege(session_user, t.oid, 'SELECT')
union all select format('trigger %s of %s is missing, altered or not always on', e.trg, e.tbl) from expected e
  where not exists (
  select from pg_trigger g join tables t on t.oid = g.tgrelid join pg_proc p on p.oid = g.tgfoid
  where t.relname = e.tbl and g.tgname = e.trg and g.tgenabled = 'A'
    and p.pronamespace = 'cordon'::regnamespace and p.proname = e.fn
    and g.tgtype = e.fires and g.tgqual is null and g.tgattr::text = '' and g.tgnargs = 0)
union all select format('table %s has rule %s', t.oid::regclass, r.rulename)
  from tables t join pg_rewrite r on r.ev_class = t.oid
union all select format('columns of %s are granted: %s (%s) to %s', t.oid::regclass, g.privilege_type, a.attname,
    case g.grantee when 0 then 'PUBLIC' else g.grantee::regrole::text end)
  from tables t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0, aclexplode(a.attacl) g
  where not exists (select from column_grant c join pg_roles r on r.rolname = c.role
    where (c.tbl, c.col, c.what, r.oid) = (t.relname, a.attname, g.privilege_type, g.grantee))
union all select format('login %s may read the words of %s', session_user, t.oid::regclass) from tables t
  where t.relname = 'patient_terms' and has_column_privilege(session_user, t.oid, 'terms', 'SELECT')
union all select format('unique index %s does not begin with tenant_id', i.indexrelid::regclass)
  from tables t join pg_index i on i.indrelid = t.oid
    left join pg_attribute a on a.attrelid = t.oid and a.attnum = i.indkey[0]
  where i.indisunique and a.attname is distinct from 'tenant_id'
union all select format('foreign key %s does not carry tenant_id', k.conname)
  from tables t join pg_constraint k on k.conrelid = t.oid and k.contype = 'f'
  where not exists (select from unnest(k.conkey, k.confkey) u(here, there)
    join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.here
    join pg_attribute b on b.attrelid = k.confrelid and b.attnum = u.there
    where a.attname = 'tenant_id' and b.attname = 'tenant_id')
union all select format('table %s is not pinned to its tenant', t.oid::regclass) from tables t
  where $1 <> 'shared' and not t.relispartition and not exists (
  select from pg_constraint k
  where k.conrelid = t.oid and k.contype = 'c' and k.convalidated and k.conname = t.relname || '_pin'
    and pg_get_constraintdef(k.oid) ~ '^CHECK \(\(tenant_id = ''[0-9a-f-]{36}''::uuid\)\)$')
union all select format('function %s differs from its migration: owner, body, rights, SECURITY DEFINER or search_path',
    p.oid::regprocedure)
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = $1 and (not p.prosecdef or p.proconfig is null
    or not 'search_path=pg_catalog, pg_temp' = any (p.proconfig)
    or has_function_privilege('public', p.oid, 'EXECUTE') or p.proleakproof
    or not exists (select from defined d join pg_roles r on r.rolname = d.owner
      where d.name = p.proname and r.oid = p.proowner
        and p.prosrc = replace(d.body, '%1$I', quote_ident($1))))
union all select format('function %s.%s is missing', $1, d.name) from defined d
  where not exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = $1 and p.proname = d.name)
union all select format('view %s could show rows with its owner''s rights', c.oid::regclass)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1 and c.relkind in ('v', 'm')

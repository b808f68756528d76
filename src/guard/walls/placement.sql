-- Walls around one tenant schema, $1, as the server's own login sees them. A row is a wall that is down.
with tables as (
  select c.*, (c.relname = 'audit_log' or c.relispartition) as is_audit from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1 and c.relkind in ('r', 'p') and c.relname <> '__diesel_schema_migrations'
),
expected(tbl, trg) as (values ('clinical_notes', 'b_lock'), ('note_versions', 'b_lock'), ('audit_log', 'b_lock'), ('audit_log', 'z_truncate'),
  ('patients', 'audit_insert'), ('patients', 'audit_update'), ('patients', 'audit_delete'), ('encounters', 'audit_insert'), ('encounters', 'audit_update'),
  ('encounters', 'audit_delete'), ('clinical_notes', 'audit_insert'), ('clinical_notes', 'audit_update'), ('clinical_notes', 'audit_delete'))
select format('schema %s has no tables', $1) as wall where not exists (select from tables where relname = 'patients')
union all select format('table %s: row security is not enabled and forced', oid::regclass) from tables where not relrowsecurity or not relforcerowsecurity
union all select format('table %s is owned by %s', oid::regclass, relowner::regrole) from tables where relowner <> 'cordon_owner'::regrole
union all select format('table %s: policy tenant is missing or altered', t.oid::regclass) from tables t where not t.is_audit and not exists (
  select from pg_policy p where p.polrelid = t.oid and p.polname = 'tenant' and p.polcmd = '*' and p.polpermissive and p.polroles = '{0}'
    and pg_get_expr(p.polqual, p.polrelid) = '(tenant_id = ( SELECT cordon.current_tenant() AS current_tenant))'
    and pg_get_expr(p.polwithcheck, p.polrelid) = '(tenant_id = ( SELECT cordon.writing_tenant() AS writing_tenant))')
union all select format('table %s has policy %s, which nobody knows', t.oid::regclass, p.polname) from tables t join pg_policy p on p.polrelid = t.oid
  where not (not t.is_audit and p.polname = 'tenant') and not (t.relname = 'audit_log' and p.polname in ('reader', 'keeper', 'guard'))
union all select format('policy %s of %s is altered', p.polname, t.oid::regclass) from tables t join pg_policy p on p.polrelid = t.oid
  where t.relname = 'audit_log' and coalesce(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) is distinct from
    case p.polname when 'reader' then '((tenant_id = ( SELECT cordon.current_tenant() AS current_tenant)) AND (( SELECT cordon.has_role(''auditor''::text) AS has_role) OR ( SELECT cordon.has_role(''records''::text) AS has_role)))'
      else '(tenant_id = ( SELECT cordon.current_tenant() AS current_tenant))' end
union all select format('login %s may %s %s', session_user, p, t.oid::regclass) from tables t, unnest('{DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) p
  where has_table_privilege(session_user, t.oid, p)
union all select format('login %s may write %s', session_user, t.oid::regclass) from tables t
  where t.is_audit and has_table_privilege(session_user, t.oid, 'INSERT, UPDATE')
union all select format('login %s reaches partition %s', session_user, t.oid::regclass) from tables t
  where t.relispartition and has_table_privilege(session_user, t.oid, 'SELECT')
union all select format('trigger %s of %s is missing or not always on', e.trg, e.tbl) from expected e where not exists (
  select from pg_trigger g join tables t on t.oid = g.tgrelid where t.relname = e.tbl and g.tgname = e.trg and g.tgenabled = 'A')
union all select format('trigger %s of %s is missing or not always on', e.trg, t.relname) from tables t, unnest('{a_stamp,own_insert,own_update,own_delete,z_truncate}'::text[]) e(trg)
  where not t.is_audit and not exists (select from pg_trigger g where g.tgrelid = t.oid and g.tgname = e.trg and g.tgenabled = 'A')
union all select format('unique index %s does not begin with tenant_id', i.indexrelid::regclass) from tables t join pg_index i on i.indrelid = t.oid
  join pg_attribute a on a.attrelid = t.oid and a.attnum = i.indkey[0] where i.indisunique and a.attname <> 'tenant_id'
union all select format('foreign key %s does not carry tenant_id', k.conname) from tables t join pg_constraint k on k.conrelid = t.oid and k.contype = 'f'
  where not exists (select from pg_attribute a where a.attrelid = t.oid and a.attname = 'tenant_id' and a.attnum = any (k.conkey))
union all select format('table %s is not pinned to its tenant', t.oid::regclass) from tables t where $1 <> 'shared' and not t.relispartition and not exists (
  select from pg_constraint k where k.conrelid = t.oid and k.contype = 'c' and k.convalidated and k.conname = t.relname || '_pin'
    and pg_get_constraintdef(k.oid) ~ '^CHECK \(\(tenant_id = ''[0-9a-f-]{36}''::uuid\)\)$')
union all select format('function %s is not as it should be', p.oid::regprocedure) from pg_proc p join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = $1 and (p.proname <> 'audit' or p.proowner <> 'cordon_guard'::regrole or not p.prosecdef or p.proconfig is null
    or not 'search_path=pg_catalog, pg_temp' = any (p.proconfig) or has_function_privilege('public', p.oid, 'EXECUTE'))
union all select format('view %s could show rows with its owner''s rights', c.oid::regclass) from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = $1 and c.relkind in ('v', 'm')

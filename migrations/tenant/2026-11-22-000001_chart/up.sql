-- The chart: staff, patients, encounters, notes. The tables are the same in all three tenancy models; search_path
-- chooses the schema. Sealed columns end in _sealed. The other columns hold ids, codes, statuses, times, blind indexes
-- and the names of staff.
-- An index on a foreign key serves the deletion of the row that it names, or a search. No row that a key names is
-- deleted or gets another key, so the keys by which nothing is searched have none: note_versions.author_id,
-- note_signatures.signer_id.

create table staff (
  tenant_id uuid not null default cordon.current_tenant(),
  id uuid not null,
  issuer text,
  subject text,
  -- Two blind indexes of an imported practitioner, who never logs in: of the resource id and the name, and of an
  -- identifier and the name. The name is part of both because two sources may give one number to two people.
  source_key bytea,
  identifier_key bytea,
  name text,
  roles text[],                         -- as last seen in a token
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version int not null default 1,
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id),
  unique (tenant_id, issuer, subject),
  unique (tenant_id, source_key),
  unique (tenant_id, identifier_key),
  check ((issuer is null) = (subject is null)),
  check (issuer is not null or source_key is not null or identifier_key is not null)
);
create index on staff (tenant_id, changed_in);

create table patients (
  tenant_id uuid not null default cordon.current_tenant(),
  id uuid not null,
  sex text not null default 'UNKNOWN' check (sex in ('FEMALE', 'MALE', 'OTHER', 'UNKNOWN')),
  deceased_at timestamptz,
  name_sealed bytea,
  birth_date_sealed bytea,
  contact_sealed bytea,
  source_key bytea,                     -- blind index of where an imported chart comes from
  source_hash bytea,                    -- of the resource as last imported: the same resource again changes nothing
  source_version int,                   -- `version` after the last import: where they differ, the row was changed here
  source_sealed bytea,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version int not null default 1,
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id),
  unique (tenant_id, source_key)
);
create index on patients (tenant_id, changed_in);
create index on patients (tenant_id, created_at desc, id desc);

create table patient_identifiers (
  tenant_id uuid not null default cordon.current_tenant(),
  id uuid not null,
  patient_id uuid not null,
  position int not null,
  system text not null,
  kind text,                            -- HL7 v2-0203: MR, SS, DL, …
  exclusive boolean not null,           -- issued by the organisation, so that no two patients have it
  value_sealed bytea not null,
  value_hash bytea not null,            -- blind index of system and value
  retired_at timestamptz,
  created_at timestamptz not null default now(),
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id),
  foreign key (tenant_id, patient_id) references patients
);
create unique index patient_identifiers_exclusive on patient_identifiers (tenant_id, value_hash)
  where exclusive and retired_at is null;
create index on patient_identifiers (tenant_id, value_hash);
create index on patient_identifiers (tenant_id, patient_id);
create index on patient_identifiers (tenant_id, changed_in);

create table patient_terms (
  tenant_id uuid not null default cordon.current_tenant(),
  patient_id uuid not null,
  terms bigint[] not null,              -- blind index of prefixes of the name's words, the birth date, the identifiers
  created_at timestamptz not null default now(),
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, patient_id),
  foreign key (tenant_id, patient_id) references patients
);
create index on patient_terms using gin (terms) with (fastupdate = off);
alter table patient_terms alter terms set statistics 1000;
create index on patient_terms (tenant_id, changed_in);
create index on patient_terms (tenant_id, created_at desc, patient_id desc);

create table encounters (
  tenant_id uuid not null default cordon.current_tenant(),
  id uuid not null,
  patient_id uuid not null,
  status text not null
    check (status in ('PLANNED', 'IN_PROGRESS', 'FINISHED', 'CANCELLED', 'ENTERED_IN_ERROR', 'UNKNOWN')),
  class text,
  reason_sealed bytea,
  cancel_reason_sealed bytea,
  started_at timestamptz,
  ended_at timestamptz,
  ordered_at timestamptz not null,      -- started_at, or else the time of creation: lists are sorted by it
  source_key bytea,
  identifier_key bytea,                 -- blind index of its number in the source, which some references use
  source_hash bytea,
  source_version int,
  source_sealed bytea,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version int not null default 1,
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id),
  unique (tenant_id, source_key),
  unique (tenant_id, id, patient_id),   -- for the notes' foreign key: an encounter of the same patient
  foreign key (tenant_id, patient_id) references patients
);
create index on encounters (tenant_id, patient_id, ordered_at desc, id desc);
create index on encounters (tenant_id, ordered_at desc, id desc);
-- For lists of planned and current encounters, of which there are few.
create index encounters_open on encounters (tenant_id, ordered_at desc, id desc)
  where status in ('PLANNED', 'IN_PROGRESS');
create index on encounters (tenant_id, identifier_key) where identifier_key is not null;
create index on encounters (tenant_id, changed_in);

create table note_types (
  tenant_id uuid not null default cordon.current_tenant(),
  code text not null,                   -- LOINC
  display text not null,
  created_at timestamptz not null default now(),
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, code)
);
create index on note_types (tenant_id, changed_in);

create table clinical_notes (
  tenant_id uuid not null default cordon.current_tenant(),
  id uuid not null,
  patient_id uuid not null,
  encounter_id uuid,
  author_id uuid,
  entered_by uuid,                      -- the scribe who typed it, where that is not the author
  status text not null default 'DRAFT'
    check (status in ('DRAFT', 'DISCARDED', 'UNCOSIGNED', 'SIGNED', 'AMENDED', 'RETRACTED')),
  type_code text not null,
  current_version int not null default 1,
  authored_at timestamptz not null,
  signed_at timestamptz,
  source_key bytea,
  source_hash bytea,
  source_version int,
  source_status text,                   -- DocumentReference.status; superseded without relatesTo hides nothing
  source_sealed bytea,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version int not null default 1,
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id),
  unique (tenant_id, source_key),
  foreign key (tenant_id, patient_id) references patients,
  foreign key (tenant_id, encounter_id, patient_id) references encounters (tenant_id, id, patient_id),
  foreign key (tenant_id, author_id) references staff,
  foreign key (tenant_id, entered_by) references staff,
  foreign key (tenant_id, type_code) references note_types
);
create index on clinical_notes (tenant_id, patient_id, authored_at desc, id desc);
create index on clinical_notes (tenant_id, encounter_id, authored_at desc, id desc);
create index on clinical_notes (tenant_id, authored_at desc, id desc);
create index on clinical_notes (tenant_id, author_id, authored_at desc, id desc);
create index on clinical_notes (tenant_id, type_code, authored_at desc, id desc);
-- For work lists: few notes are unfinished, however many there are.
create index clinical_notes_pending on clinical_notes (tenant_id, authored_at desc, id desc)
  where status in ('DRAFT', 'UNCOSIGNED');
create index on clinical_notes (tenant_id, entered_by) where entered_by is not null;
create index on clinical_notes (tenant_id, changed_in);

create table note_versions (
  tenant_id uuid not null default cordon.current_tenant(),
  id uuid not null,
  note_id uuid not null,
  number int not null,
  author_id uuid,
  title_sealed bytea,
  body_sealed bytea not null,
  created_at timestamptz not null default now(),
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id),
  unique (tenant_id, note_id, number),
  foreign key (tenant_id, note_id) references clinical_notes,
  foreign key (tenant_id, author_id) references staff
);
create index on note_versions (tenant_id, changed_in);
-- A note's current version exists. The check is deferred because a note and its first version are inserted in one
-- transaction.
alter table clinical_notes add foreign key (tenant_id, id, current_version)
  references note_versions (tenant_id, note_id, number) deferrable initially deferred;

-- The staff who may see, change and sign a draft besides its author.
create table note_signers (
  tenant_id uuid not null default cordon.current_tenant(),
  note_id uuid not null,
  staff_id uuid not null,
  created_at timestamptz not null default now(),
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, note_id, staff_id),
  foreign key (tenant_id, note_id) references clinical_notes,
  foreign key (tenant_id, staff_id) references staff
);
create index on note_signers (tenant_id, staff_id);
create index on note_signers (tenant_id, changed_in);

-- One signature of one version of a note. `hash` is salted and the salt is sealed, so that the hash confirms no guess
-- about the text. src/model/signature.rs defines what is hashed and what is signed.
create table note_signatures (
  tenant_id uuid not null default cordon.current_tenant(),
  id uuid not null,
  note_id uuid not null,
  number int not null,
  signer_id uuid not null,
  meaning text not null check (meaning in ('AUTHOR', 'SIGNER')),
  signed_at timestamptz not null,
  salt_sealed bytea not null,
  hash bytea not null check (length(hash) = 32),
  signature bytea not null check (length(signature) = 64),
  verify_key bytea not null check (length(verify_key) = 32),
  created_at timestamptz not null default now(),
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id),
  unique (tenant_id, note_id, number, signer_id),
  foreign key (tenant_id, note_id, number) references note_versions (tenant_id, note_id, number),
  foreign key (tenant_id, signer_id) references staff
);
create index on note_signatures (tenant_id, changed_in);

-- The Idempotency-Keys of clients, each with the id of the record that its mutation made or changed; never the
-- response. Rows are deleted after a day.
create table idempotency_keys (
  tenant_id uuid not null default cordon.current_tenant(),
  id uuid not null,
  principal_id uuid not null,
  key_hash bytea not null,
  body_hash bytea not null,
  record_id uuid,                       -- null only until the mutation is committed
  created_at timestamptz not null default now(),
  changed_in xid8 not null default pg_current_xact_id(),
  primary key (tenant_id, id),
  unique (tenant_id, principal_id, key_hash)
);
create index on idempotency_keys (tenant_id, created_at);

-- Tables are audited by default. The others are exceptions of the isolation check, with their reasons
-- (src/isolation/schema.sql).
call cordon.enclose('staff', 'select, insert, update (name, roles, updated_at, version)', audited => false);
call cordon.enclose('patients', 'select, insert, update (sex, deceased_at, name_sealed, birth_date_sealed,
  contact_sealed, source_sealed, source_hash, source_version, updated_at, version)');
call cordon.enclose('patient_identifiers', 'select, insert, update (position, retired_at)', audited => false);
-- The server writes the blind terms and never reads them.
call cordon.enclose('patient_terms', 'insert, select (tenant_id, patient_id), update (terms)', audited => false);
call cordon.enclose('encounters', 'select, insert, update (status, class, reason_sealed, cancel_reason_sealed,
  started_at, ended_at, ordered_at, identifier_key, source_sealed, source_hash, source_version, updated_at, version)');
call cordon.enclose('note_types', audited => false);
-- An import corrects the encounter, the author and the type of a note that an import created (note_lock()).
call cordon.enclose('clinical_notes', 'select, insert, update (encounter_id, author_id, status, type_code,
  current_version, authored_at, signed_at, source_status, source_sealed, source_hash, source_version, updated_at,
  version)', movable => '{encounter_id,author_id,type_code,current_version}');
call cordon.enclose('note_versions', audited => false);
call cordon.enclose('note_signers', audited => false);
call cordon.enclose('note_signatures', audited => false);
call cordon.enclose('idempotency_keys', 'select, insert, update (record_id)', audited => false);
-- delete_expired_keys() deletes them.
grant select, update, delete on idempotency_keys to cordon_guard;

create trigger audit_roles after update on staff referencing old table as old_rows new table as new_rows
  for each statement execute function cordon.audit_roles();
alter table staff enable always trigger audit_roles;
create trigger b_lock before insert or update or delete on clinical_notes
  for each row execute function cordon.note_lock();
alter table clinical_notes enable always trigger b_lock;
create trigger b_lock before insert or update on staff for each row execute function cordon.staff_lock();
alter table staff enable always trigger b_lock;
-- Versions, signers and signatures are added to drafts and never changed.
do $$
declare
  tbl name;
begin
  foreach tbl in array '{note_versions,note_signers,note_signatures}'::name[] loop
    execute format('create trigger b_lock before insert on %I for each row execute function cordon.draft_lock()', tbl);
    execute format('create trigger c_lock before update or delete on %I
      for each row execute function cordon.refuse()', tbl);
    execute format('alter table %I enable always trigger b_lock', tbl);
    execute format('alter table %I enable always trigger c_lock', tbl);
  end loop;
end $$;

-- search_patients() returns the ids of one page of patients whose blind terms contain all of `query_terms`, newest or
-- oldest first, strictly between the positions `older` and `newer`, and at most `max_rows` of them. Array operators are
-- not leakproof and therefore cannot use the index under row security. This one function reads the terms without row
-- security, for the bound tenant alone; the caller joins the ids with `patients` under row security.
create policy search on patient_terms for select to cordon_search using (true);
grant select (tenant_id, patient_id, terms, created_at) on patient_terms to cordon_search;
do $$
declare
  home name := cordon.home();
begin
  execute format($f$
    create function %1$I.search_patients(query_terms bigint[], older_at timestamptz, older_id uuid,
      newer_at timestamptz, newer_id uuid, newest_first boolean, max_rows int) returns setof uuid
    language plpgsql stable parallel restricted security definer rows 50 set search_path = pg_catalog, pg_temp
    set plan_cache_mode = force_custom_plan as $q$
    declare
      tenant uuid := cordon.current_tenant();
    begin
      if newest_first then
        return query select t.patient_id from %1$I.patient_terms t where t.tenant_id = tenant and t.terms @> query_terms
          and (t.created_at, t.patient_id) < (older_at, older_id)
          and (t.created_at, t.patient_id) > (newer_at, newer_id)
          order by t.created_at desc, t.patient_id desc limit max_rows;
      else
        return query select t.patient_id from %1$I.patient_terms t where t.tenant_id = tenant and t.terms @> query_terms
          and (t.created_at, t.patient_id) < (older_at, older_id)
          and (t.created_at, t.patient_id) > (newer_at, newer_id)
          order by t.created_at, t.patient_id limit max_rows;
      end if;
    end $q$ $f$, home);
  execute format('revoke all on function %I.search_patients from public', home);
  execute format('grant create, usage on schema %I to cordon_search', home);
  execute format('alter function %I.search_patients owner to cordon_search', home);
  execute format('revoke create on schema %I from cordon_search', home);
  execute format('grant execute on function %I.search_patients to %I, cordon_keeper', home, cordon.app_login());
end $$;

-- The catalog: the tenants, their placements and their wrapped keys; no chart data. Runs as cordon_operator in the
-- control database. The server reads it as cordon_catalog_reader and writes only counts of security events, through
-- note_security_event().

create schema cordon_catalog;
revoke all on schema cordon_catalog from public;
grant usage on schema cordon_catalog to cordon_catalog_reader;

create table cordon_catalog.servers (
  id uuid primary key,
  name text not null unique check (name ~ '^[a-z][a-z0-9-]{0,38}$'),
  system_identifier bigint not null unique,      -- PostgreSQL's own, so that no server is registered under two names
  address text not null,                -- connection parameters without a login: postgres://host:port/?sslmode=…
  data_database name not null,
  app_password bytea not null,          -- wrapped by the system's key, like the two below
  keeper_password bytea not null,
  operator_password bytea not null,
  region text check (region ~ '^[a-z0-9][a-z0-9-]{0,38}$'),      -- location, as the operator names it
  created_at timestamptz not null default now()
);

create table cordon_catalog.tenants (
  id uuid primary key,
  slug text not null check (slug ~ '^[a-z][a-z0-9-]{1,38}$'),
  name text not null,
  plan text not null default 'standard',
  state text not null check (state in ('provisioning', 'active', 'suspended', 'offboarding', 'destroyed')),
  origins text[] not null default '{}',           -- of web pages that browsers let call the API for it
  -- Null in one of these three: the server's settings apply.
  statement_timeout_ms int check (statement_timeout_ms between 1 and 600000),
  requests_per_second int check (requests_per_second > 0),
  concurrency int check (concurrency > 0),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create unique index tenants_living_slug on cordon_catalog.tenants (slug) where state <> 'destroyed';

create table cordon_catalog.placements (
  id uuid primary key,
  tenant_id uuid not null references cordon_catalog.tenants,
  server_id uuid not null references cordon_catalog.servers,
  model text not null check (model in ('shared', 'schema', 'database')),
  database_name name not null,
  schema_name name not null,
  generation int not null,
  serving boolean not null,
  app_password bytea,                   -- wrapped; only of a placement with a login of its own
  created_at timestamptz not null default now(),
  unique (tenant_id, generation)
);
create unique index placements_serving on cordon_catalog.placements (tenant_id) where serving;

create table cordon_catalog.wrapped_keys (
  id uuid primary key,
  tenant_id uuid references cordon_catalog.tenants,       -- null: a key of the system
  server_id uuid references cordon_catalog.servers,       -- of a binding key: the database it is for
  database_name name,
  kind text not null check (kind in ('data', 'search', 'signing', 'binding')),
  version int not null,
  wrapped bytea not null,
  created_at timestamptz not null default now()
);
create unique index wrapped_keys_tenant on cordon_catalog.wrapped_keys (tenant_id, kind, version)
  where tenant_id is not null;
create unique index wrapped_keys_database on cordon_catalog.wrapped_keys (server_id, database_name, version)
  where kind = 'binding';

create table cordon_catalog.migration_runs (
  id uuid primary key,
  server_id uuid,
  database_name name not null,
  schema_name name not null,
  version text not null,
  direction text not null check (direction in ('up', 'down')),
  started_at timestamptz not null default clock_timestamp(),
  duration_ms int,
  outcome text not null default 'running' check (outcome in ('running', 'done', 'failed')),
  error text
);
create index on cordon_catalog.migration_runs (started_at);

create table cordon_catalog.operations (
  id uuid primary key,
  kind text not null,
  tenant_id uuid,
  subject text not null,                -- the slug or the server's name that it works on
  state text not null default 'running' check (state in ('running', 'done', 'failed')),
  step text,
  error text,
  started_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz
);
create index on cordon_catalog.operations (started_at);

create table cordon_catalog.security_events (
  minute timestamptz not null,
  kind text not null,
  detail text not null default '',
  count bigint not null default 1,
  primary key (minute, kind, detail)
);

grant select on cordon_catalog.tenants, cordon_catalog.placements, cordon_catalog.wrapped_keys to cordon_catalog_reader;
grant select (id, name, address, data_database, app_password, region, created_at) on cordon_catalog.servers
  to cordon_catalog_reader;

-- Adds to the count of a kind of security event. Events that belong to no verified tenant are counted in one row per
-- minute, kind and detail, so that a flood of them becomes few rows.
create function cordon_catalog.note_security_event(event text, about text, times bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into cordon_catalog.security_events as e (minute, kind, detail, count)
    values (date_trunc('minute', now()), left(event, 100), left(about, 200), times)
    on conflict (minute, kind, detail) do update set count = e.count + excluded.count;
end $$;
revoke all on function cordon_catalog.note_security_event(text, text, bigint) from public;
grant execute on function cordon_catalog.note_security_event(text, text, bigint) to cordon_catalog_reader;

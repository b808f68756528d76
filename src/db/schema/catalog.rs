//! Tables of the catalog, always qualified.
//! Written by `UPDATE=1 cargo test fresh` from a migrated database; columns of type xid8 are the database's own and left out.

diesel::table! {
    cordon_catalog.migration_runs (id) {
        id -> Uuid,
        server_id -> Nullable<Uuid>,
        database_name -> Text,
        schema_name -> Text,
        version -> Text,
        direction -> Text,
        started_at -> Timestamptz,
        duration_ms -> Nullable<Int4>,
        outcome -> Text,
        error -> Nullable<Text>,
    }
}

diesel::table! {
    cordon_catalog.operations (id) {
        id -> Uuid,
        kind -> Text,
        tenant_id -> Nullable<Uuid>,
        subject -> Text,
        state -> Text,
        step -> Nullable<Text>,
        error -> Nullable<Text>,
        started_at -> Timestamptz,
        ended_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    cordon_catalog.placements (id) {
        id -> Uuid,
        tenant_id -> Uuid,
        server_id -> Uuid,
        model -> Text,
        database_name -> Text,
        schema_name -> Text,
        generation -> Int4,
        serving -> Bool,
        app_password -> Nullable<Bytea>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    cordon_catalog.security_events (minute, kind, detail) {
        minute -> Timestamptz,
        kind -> Text,
        detail -> Text,
        count -> Int8,
    }
}

diesel::table! {
    cordon_catalog.servers (id) {
        id -> Uuid,
        name -> Text,
        system_identifier -> Int8,
        address -> Text,
        data_database -> Text,
        app_password -> Bytea,
        keeper_password -> Bytea,
        operator_password -> Bytea,
        region -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    cordon_catalog.tenants (id) {
        id -> Uuid,
        slug -> Text,
        name -> Text,
        plan -> Text,
        state -> Text,
        origins -> Array<Text>,
        statement_timeout_ms -> Nullable<Int4>,
        requests_per_second -> Nullable<Int4>,
        concurrency -> Nullable<Int4>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    cordon_catalog.wrapped_keys (id) {
        id -> Uuid,
        tenant_id -> Nullable<Uuid>,
        server_id -> Nullable<Uuid>,
        database_name -> Nullable<Text>,
        kind -> Text,
        version -> Int4,
        wrapped -> Bytea,
        created_at -> Timestamptz,
    }
}

diesel::allow_tables_to_appear_in_same_query!(migration_runs, operations, placements, security_events, servers, tenants, wrapped_keys);

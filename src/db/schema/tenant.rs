//! Tables of a tenant schema, unqualified: placement decides through search_path.
//! Written by `UPDATE=1 cargo test fresh` from a migrated database; columns of type xid8 are the database's own and left out.

diesel::table! {
    audit_log (tenant_id, recorded_at, id) {
        tenant_id -> Uuid,
        id -> Uuid,
        recorded_at -> Timestamptz,
        principal_id -> Uuid,
        issuer -> Nullable<Text>,
        subject -> Nullable<Text>,
        name -> Nullable<Text>,
        acting -> Nullable<Text>,
        roles -> Array<Text>,
        roles_before -> Nullable<Array<Text>>,
        purpose -> Text,
        request_id -> Uuid,
        trace_id -> Nullable<Text>,
        user_agent -> Nullable<Text>,
        action -> Text,
        outcome -> Text,
        resource_type -> Text,
        patient_id -> Nullable<Uuid>,
        resource_ids -> Array<Uuid>,
        fields -> Nullable<Array<Text>>,
        detail_sealed -> Nullable<Bytea>,
    }
}

diesel::table! {
    clinical_notes (tenant_id, id) {
        tenant_id -> Uuid,
        id -> Uuid,
        patient_id -> Uuid,
        encounter_id -> Nullable<Uuid>,
        author_id -> Nullable<Uuid>,
        entered_by -> Nullable<Uuid>,
        status -> Text,
        type_code -> Text,
        current_version -> Int4,
        authored_at -> Timestamptz,
        signed_at -> Nullable<Timestamptz>,
        source_key -> Nullable<Bytea>,
        source_hash -> Nullable<Bytea>,
        source_version -> Nullable<Int4>,
        source_status -> Nullable<Text>,
        source_sealed -> Nullable<Bytea>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        version -> Int4,
    }
}

diesel::table! {
    encounters (tenant_id, id) {
        tenant_id -> Uuid,
        id -> Uuid,
        patient_id -> Uuid,
        status -> Text,
        class -> Nullable<Text>,
        reason_sealed -> Nullable<Bytea>,
        cancel_reason_sealed -> Nullable<Bytea>,
        started_at -> Nullable<Timestamptz>,
        ended_at -> Nullable<Timestamptz>,
        ordered_at -> Timestamptz,
        source_key -> Nullable<Bytea>,
        identifier_key -> Nullable<Bytea>,
        source_hash -> Nullable<Bytea>,
        source_version -> Nullable<Int4>,
        source_sealed -> Nullable<Bytea>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        version -> Int4,
    }
}

diesel::table! {
    idempotency_keys (tenant_id, id) {
        tenant_id -> Uuid,
        id -> Uuid,
        principal_id -> Uuid,
        key_hash -> Bytea,
        body_hash -> Bytea,
        record_id -> Nullable<Uuid>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    note_signatures (tenant_id, id) {
        tenant_id -> Uuid,
        id -> Uuid,
        note_id -> Uuid,
        number -> Int4,
        signer_id -> Uuid,
        meaning -> Text,
        signed_at -> Timestamptz,
        salt_sealed -> Bytea,
        hash -> Bytea,
        signature -> Bytea,
        verify_key -> Bytea,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    note_signers (tenant_id, note_id, staff_id) {
        tenant_id -> Uuid,
        note_id -> Uuid,
        staff_id -> Uuid,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    note_types (tenant_id, code) {
        tenant_id -> Uuid,
        code -> Text,
        display -> Text,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    note_versions (tenant_id, id) {
        tenant_id -> Uuid,
        id -> Uuid,
        note_id -> Uuid,
        number -> Int4,
        author_id -> Nullable<Uuid>,
        title_sealed -> Nullable<Bytea>,
        body_sealed -> Bytea,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    patient_identifiers (tenant_id, id) {
        tenant_id -> Uuid,
        id -> Uuid,
        patient_id -> Uuid,
        position -> Int4,
        system -> Text,
        kind -> Nullable<Text>,
        exclusive -> Bool,
        value_sealed -> Bytea,
        value_hash -> Bytea,
        retired_at -> Nullable<Timestamptz>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    patient_terms (tenant_id, patient_id) {
        tenant_id -> Uuid,
        patient_id -> Uuid,
        terms -> Array<Int8>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    patients (tenant_id, id) {
        tenant_id -> Uuid,
        id -> Uuid,
        sex -> Text,
        deceased_at -> Nullable<Timestamptz>,
        name_sealed -> Nullable<Bytea>,
        birth_date_sealed -> Nullable<Bytea>,
        contact_sealed -> Nullable<Bytea>,
        source_key -> Nullable<Bytea>,
        source_hash -> Nullable<Bytea>,
        source_version -> Nullable<Int4>,
        source_sealed -> Nullable<Bytea>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        version -> Int4,
    }
}

diesel::table! {
    staff (tenant_id, id) {
        tenant_id -> Uuid,
        id -> Uuid,
        issuer -> Nullable<Text>,
        subject -> Nullable<Text>,
        source_key -> Nullable<Bytea>,
        identifier_key -> Nullable<Bytea>,
        name -> Nullable<Text>,
        roles -> Nullable<Array<Text>>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
        version -> Int4,
    }
}

diesel::allow_tables_to_appear_in_same_query!(audit_log, clinical_notes, encounters, idempotency_keys, note_signatures, note_signers, note_types, note_versions, patient_identifiers, patient_terms, patients, staff);

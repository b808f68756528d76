drop table idempotency_keys, note_signatures, note_signers, note_versions, clinical_notes, note_types, encounters, patient_terms, patient_identifiers, patients, staff;

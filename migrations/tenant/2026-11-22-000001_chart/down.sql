do $$
begin
  execute format('drop function %I.search_patients', cordon.home());
end $$;
drop table idempotency_keys, note_signatures, note_signers, note_versions, clinical_notes, note_types, encounters,
  patient_terms, patient_identifiers, patients, staff;

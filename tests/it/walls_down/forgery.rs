//! Forged and replayed bindings, and sealed values in other places than their own: bindings are rejected, and values do
//! not open.

use super::Attack;
use super::walls::RESTORE_TRIGGERS;
use crate::support::intruder::TicketFields;
use crate::support::site::{Site, actor};
use cordon::app::App;
use cordon::crypto::{Sealed, TenantKeys};
use cordon::db::schema::tenant::patients;
use cordon::error::Error;
use cordon::guard::TxKind;
use cordon::ids::RequestId;
use cordon::model::fields::{EncounterReason, NoteBody, NoteTitle, PatientName};
use diesel::{ExpressionMethods, NullableExpressionMethods, QueryDsl};
use std::sync::Arc;

/// Tickets with a wrong MAC, altered tickets, tickets of another backend, expired tickets, and settings copied from a
/// bound transaction are all rejected.
pub async fn assert_bindings_cannot_be_forged(attack: &Attack) {
    let (intruder, victim) = (&attack.intruder, &attack.victim);
    let genuine = TicketFields::of(victim.tenant.id, "read");
    let read = "select count(*) from patients";
    assert!(
        intruder.run(victim.schema(), &intruder.bind(&genuine), read).await.is_ok(),
        "a genuine ticket is accepted"
    );

    let text = intruder.ticket(&genuine);
    let mac = intruder.mac(&format!("ticket.{text}.{}", intruder.pid));
    let neighbour = attack.neighbour.tenant.id.to_string();
    let mut forged: Vec<(String, String)> = [
        text.replacen("clinician", "clinician,auditor", 1),
        text.replacen(".read.", ".write.", 1),
        text.replacen(&victim.tenant.id.to_string(), &neighbour, 1),
        text.replacen(".1.", ".2.", 2),
        text.replacen("v1.1.", "v1.2.", 1),
        text.replacen("v1.", "v2.", 1),
        format!("{text}00"),
        format!("{text}."),
        String::new(),
    ]
    .into_iter()
    .map(|tampered| (tampered, mac.clone()))
    .collect();
    forged.extend([(text.clone(), "0".repeat(64)), (text.clone(), String::new()), (text.clone(), mac.to_uppercase())]);
    let elsewhere = [
        format!("ticket.{text}.{}", intruder.pid + 1),
        format!("ticket.{text}."),
        format!("tx.{text}.{}", intruder.pid),
        text.clone(),
    ];
    for message in elsewhere {
        forged.push((text.clone(), intruder.mac(&message)));
    }
    let genuine_but = |change: fn(&mut TicketFields)| {
        let mut ticket = genuine.clone();
        change(&mut ticket);
        ticket
    };
    let mut out_of_place = vec![
        genuine_but(|ticket| ticket.good_for_ms = -1),
        genuine_but(|ticket| ticket.good_for_ms = 60_000),
        genuine_but(|ticket| ticket.good_for_ms = 11_000),
    ];
    for purpose in ["migrate", "move", "restore", "reseal", "purge", "backup", "seal", "", "READ"] {
        out_of_place.push(TicketFields { purpose, ..genuine.clone() });
    }
    for ticket in &out_of_place {
        let text = intruder.ticket(ticket);
        let mac = intruder.mac(&format!("ticket.{text}.{}", intruder.pid));
        forged.push((text, mac));
    }
    for (text, mac) in &forged {
        let refused =
            intruder.run(victim.schema(), &format!("select cordon.bind('{text}', '{mac}')"), read).await.unwrap_err();
        assert_eq!(refused.code, "42501", "{text}: {}", refused.message);
    }

    // The settings of a bound transaction are valid in that transaction only.
    let bind = intruder.bind(&genuine);
    let settings = "select current_setting('app.claims'), current_setting('app.binding')";
    let output = intruder.run(victim.schema(), &bind, settings).await.unwrap();
    let (claims, binding) = output.lines().last().unwrap().split_once('\t').unwrap();
    let replay = format!(
        "select set_config('app.claims', '{claims}', true), set_config('app.binding', '{binding}', true), \
         set_config('app.current_tenant', '{}', true)",
        victim.tenant.id
    );
    let refused = intruder.run(victim.schema(), &replay, read).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.message.as_str()), ("42501", "tenant binding refused"));
    let refused = intruder.run(victim.schema(), &format!("{bind}; {bind}"), read).await.unwrap_err();
    assert_eq!(refused.message, "already bound");
    println!("{:8} {:28} refused: {}", attack.model.as_str(), "binding forged or replayed", forged.len() + 2);
}

/// Sealed values open only with the keys of their tenant, and only in the row and column they were sealed for.
pub async fn assert_sealed_values_stay_in_place(attack: &Attack, site: &Site, app: &Arc<App>) {
    let (victim, neighbour) = (&attack.victim, &attack.neighbour);
    let (victim_keys, neighbour_keys) =
        (app.keys.tenant(victim.tenant.id).await.unwrap(), app.keys.tenant(neighbour.tenant.id).await.unwrap());
    let home = victim.schema();
    let row = attack
        .intruder
        .superuser
        .query_one(
            &format!(
                "select p.name_sealed, e.reason_sealed, v.title_sealed, v.body_sealed from {home}.patients p join \
                 {home}.encounters e on e.patient_id = p.id, {home}.note_versions v where p.id = '{}' and v.id = '{}'",
                victim.patient, victim.version
            ),
            &[],
        )
        .await
        .unwrap();
    let [name, reason, title, body]: [Vec<u8>; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    let text = |keys: &TenantKeys, row, bytes: &[u8]| keys.open::<NoteBody>(row, &Sealed::from_bytes(bytes.to_vec()));
    assert!(victim.leaks_into(&text(&victim_keys, victim.version, &body).unwrap()), "the right key opens");
    assert!(victim_keys.open::<PatientName>(victim.patient, &Sealed::from_bytes(name.clone())).is_ok());
    assert!(victim_keys.open::<EncounterReason>(victim.encounter, &Sealed::from_bytes(reason.clone())).is_ok());
    for (keys, row, bytes) in [
        (&neighbour_keys, victim.version, &body),
        (&victim_keys, neighbour.version, &body),
        (&victim_keys, victim.version, &title),
        (&victim_keys, victim.version, &reason),
        (&victim_keys, victim.encounter, &reason),
        (&victim_keys, victim.patient, &name),
    ] {
        assert_eq!(text(keys, row, bytes), Err(Error::Integrity));
    }
    assert_eq!(victim_keys.open::<NoteTitle>(victim.version, &Sealed::from_bytes(body.clone())), Err(Error::Integrity));
    for at in 0..body.len() {
        let mut broken = body.clone();
        broken[at] ^= 1;
        assert_eq!(text(&victim_keys, victim.version, &broken), Err(Error::Integrity), "byte {at}");
    }

    // A superuser copies the sealed name to a row of the neighbour, who reads it through the guard.
    let schema = neighbour.schema();
    site.superuser(&neighbour.placement().database)
        .await
        .batch_execute(&format!(
            "begin; alter table {schema}.patients disable trigger user; insert into {schema}.patients (tenant_id, id, \
             name_sealed) values ('{}', '{}', '\\x{}');
             {}; commit",
            neighbour.tenant.id,
            victim.patient,
            cordon::audit::hex(&name),
            RESTORE_TRIGGERS.replace("{t}", &format!("{schema}.patients"))
        ))
        .await
        .unwrap();
    let tx = app
        .guards
        .begin_operation(neighbour.tenant.id, &actor(neighbour.tenant.id, "clinician"), TxKind::Read, RequestId::new())
        .await
        .unwrap();
    let moved = patients::table.select(patients::name_sealed.assume_not_null()).filter(patients::id.eq(victim.patient));
    let moved: Sealed<PatientName> = tx.first(moved).await.unwrap();
    assert_eq!(tx.keys().open(victim.patient, &moved).err(), Some(Error::Integrity));
    tx.rollback().await.unwrap();
    println!("{:8} {:28} stopped by: keys", attack.model.as_str(), "wrong key, moved rows");
}

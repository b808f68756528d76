//! Forged and replayed bindings, and sealed values in other places than their own: bindings are rejected, and values do
//! not open.

use super::Attack;
use super::walls::RESTORE_TRIGGERS;
use crate::support::intruder::{BindArguments, TicketFields};
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

/// Tickets with a wrong MAC, altered tickets, tickets of another backend or of an earlier transaction, expired tickets,
/// and claims copied from a bound transaction are all rejected.
pub async fn assert_bindings_cannot_be_forged(attack: &Attack) {
    let (intruder, victim) = (&attack.intruder, &attack.victim);
    let genuine = TicketFields::of(victim.tenant.id, "read");
    let read = "select count(*) from patients";
    let bind = intruder.bind(&genuine).await;
    assert!(intruder.run(victim.schema(), &bind, read).await.is_ok(), "a genuine ticket is accepted");

    let mut refused = 0;
    let mut refuse = async |call: String| {
        let error = intruder.run(victim.schema(), &call, read).await.unwrap_err();
        assert_eq!(error.code, "42501", "{call}: {}", error.message);
        refused += 1;
    };
    // The ticket of a transaction that has ended, after a commit and after a rollback.
    refuse(bind).await;
    let rolled_back = intruder.bind(&genuine).await;
    intruder.query(&format!("begin; {rolled_back}; rollback")).await.unwrap();
    refuse(rolled_back).await;

    let (tenant, neighbour) = (victim.tenant.id.0.simple(), attack.neighbour.tenant.id.0.simple());
    let changes: [&dyn Fn(&mut BindArguments); 12] = [
        &|bind| bind.claims = bind.claims.replacen("clinician", "clinician auditor", 1),
        &|bind| bind.claims = bind.claims.replacen(",read,", ",write,", 1),
        &|bind| bind.claims = bind.claims.replacen(&tenant.to_string(), &neighbour.to_string(), 1),
        &|bind| bind.claims.push_str("00"),
        &|bind| bind.claims.push(','),
        &|bind| bind.claims.clear(),
        &|bind| bind.claims = format!("1.{}", bind.claims),
        &|bind| bind.generation += 1,
        &|bind| bind.kid += 1,
        &|bind| bind.expiry_ms += 1,
        &|bind| bind.number += 1,
        &|bind| bind.number -= 1,
    ];
    for change in changes {
        let mut arguments = intruder.arguments(&genuine).await;
        let mac = intruder.mac(&arguments.message(intruder.pid));
        change(&mut arguments);
        refuse(arguments.call(&mac)).await;
    }
    // A correct MAC for another number of this session.
    for step in [-1, 1] {
        let mut arguments = intruder.arguments(&genuine).await;
        arguments.number += step;
        refuse(arguments.call(&intruder.mac(&arguments.message(intruder.pid)))).await;
    }
    let macs: [&dyn Fn(&BindArguments) -> String; 6] = [
        &|_| "0".repeat(64),
        &|_| String::new(),
        &|bind| intruder.mac(&bind.message(intruder.pid)).to_uppercase(),
        &|bind| intruder.mac(&bind.message(intruder.pid + 1)),
        &|bind| intruder.mac(&bind.message(intruder.pid).replace("v2", "v1")),
        &|bind| intruder.mac(&bind.claims),
    ];
    for mac in macs {
        let arguments = intruder.arguments(&genuine).await;
        refuse(arguments.call(&mac(&arguments))).await;
    }
    let purposes = ["migrate", "move", "restore", "reseal", "purge", "backup", "seal", "", "READ"];
    let out_of_place = [-1, 60_000, 11_000]
        .map(|good_for_ms| TicketFields { good_for_ms, ..genuine.clone() })
        .into_iter()
        .chain(purposes.map(|purpose| TicketFields { purpose, ..genuine.clone() }));
    for ticket in out_of_place {
        refuse(intruder.bind(&ticket).await).await;
    }

    // The claims of a bound transaction can be read in it, but only the guard's function can set them.
    let bind = intruder.bind(&genuine).await;
    let claims = intruder.run(victim.schema(), &bind, "select current_setting('backtrace_functions')").await.unwrap();
    let claims = claims.lines().last().unwrap();
    assert!(claims.starts_with(&tenant.to_string()), "{claims}");
    for replay in [
        format!("set backtrace_functions = '{claims}'"),
        format!("set local backtrace_functions = '{claims}'"),
        format!("select set_config('backtrace_functions', '{claims}', true)"),
        format!("select set_config('backtrace_functions', '{claims}', false)"),
        format!("update pg_settings set setting = '{claims}' where name = 'backtrace_functions'"),
        format!("alter role current_user set backtrace_functions = '{claims}'"),
        format!("select set_config('app.current_tenant', '{tenant}', true)"),
    ] {
        refuse(replay).await;
    }
    // A second ticket with the right number does not bind a bound transaction.
    let mut arguments = intruder.arguments(&genuine).await;
    let first = arguments.call(&intruder.mac(&arguments.message(intruder.pid)));
    arguments.number += 1;
    let second = arguments.call(&intruder.mac(&arguments.message(intruder.pid)));
    let error = intruder.run(victim.schema(), &format!("{first}; {second}"), read).await.unwrap_err();
    assert_eq!(error.message, "already bound");
    println!("{:8} {:28} refused: {}", attack.model.as_str(), "binding forged or replayed", refused + 1);
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

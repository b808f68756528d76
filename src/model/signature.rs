//! Signatures under notes: what is hashed, what is signed, and their rows. Touches `note_signatures`; reads `staff`.
//!
//! The hash is SHA-256 over these parts, each preceded by its length (u32, big endian): `cordon.note.v1`, the salt (32
//! bytes), tenant, note, number of the version, patient, encounter, type, when it was authored, author, title, body. An
//! id is written as its 16 bytes, an absent value as no bytes, numbers are decimal, times RFC 3339 in UTC with
//! microseconds, texts UTF-8 as stored. The salt is sealed, so the hash confirms no guess about a text, and is gone
//! with the tenant's keys. Signed with the tenant's Ed25519 key, in the same framing: `cordon.signature.v1`, tenant,
//! note, number of the version, the hash, signer, meaning, when it was signed.

use super::sql::{is_any_of, text_enum};
use crate::audit::hex;
use crate::crypto::{TenantKeys, frame, fresh_key};
use crate::db::schema::tenant::{note_signatures as signatures, staff};
use crate::error::Result;
use crate::guard::TenantTx;
use crate::ids::{EncounterId, NoteId, PatientId, SignatureId, StaffId, TenantId};
use crate::model::fields::SignatureSalt;
use aws_lc_rs::digest;
use chrono::{DateTime, SecondsFormat, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;

text_enum!(
    /// The meaning of a signature, as 21 CFR 11.50 asks for.
    Meaning {
        /// The signer wrote the note.
        Author = "AUTHOR",
        /// The signer takes responsibility for a note that another person wrote.
        Signer = "SIGNER",
    }
);

/// A signature as it is shown to readers.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = signatures, check_for_backend(Pg))]
pub struct Signature {
    /// The note that is signed.
    #[diesel(column_name = note_id)]
    pub note: NoteId,
    /// The person who signed.
    #[diesel(column_name = signer_id)]
    pub signer: StaffId,
    /// The signer's name.
    #[diesel(select_expression = staff::name)]
    pub signer_name: Option<String>,
    /// The meaning of the signature.
    pub meaning: Meaning,
    /// When it was made.
    pub signed_at: DateTime<Utc>,
}

/// The content of a note that a signature covers.
#[derive(Debug, Clone)]
pub struct Content<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The note.
    pub note: NoteId,
    /// The number of the version.
    pub number: i32,
    /// The patient whose chart it is in.
    pub patient: PatientId,
    /// The encounter it was written for.
    pub encounter: Option<EncounterId>,
    /// LOINC document code.
    pub kind: &'a str,
    /// When it was written.
    pub authored_at: DateTime<Utc>,
    /// The author.
    pub author: Option<StaffId>,
    /// The title.
    pub title: Option<&'a str>,
    /// The text.
    pub body: &'a str,
}

/// One act of signing.
#[derive(Debug, Clone, Copy)]
pub struct Signing {
    /// The person who signs.
    pub signer: StaffId,
    /// The meaning of the signature.
    pub meaning: Meaning,
    /// When it is made, to the microsecond.
    pub at: DateTime<Utc>,
}

/// Signs a version of a note with the tenant's key and stores the signature.
pub async fn add(tx: &TenantTx, content: &Content<'_>, signing: Signing) -> Result<()> {
    let (id, keys, salt) = (SignatureId::new(), tx.keys(), fresh_key());
    let hash = hash(&salt, content);
    let signature = keys.sign(&statement(content, &hash, signing));
    let row = (
        signatures::tenant_id.eq(content.tenant),
        signatures::id.eq(id),
        signatures::note_id.eq(content.note),
        signatures::number.eq(content.number),
        signatures::signer_id.eq(signing.signer),
        signatures::meaning.eq(signing.meaning),
        signatures::signed_at.eq(signing.at),
        signatures::salt_sealed.eq(keys.seal::<SignatureSalt>(id.0, &hex(&salt))?),
        signatures::hash.eq(hash.to_vec()),
        signatures::signature.eq(signature.to_vec()),
        signatures::verify_key.eq(keys.verify_key().to_vec()),
    );
    tx.execute(diesel::insert_into(signatures::table).values(row)).await.map(|_| ())
}

/// Returns the signatures under these notes, each note's in the order in which they were made.
pub async fn of_notes(tx: &TenantTx, notes: &[NoteId]) -> Result<Vec<Signature>> {
    let same = staff::tenant_id.eq(signatures::tenant_id).and(staff::id.eq(signatures::signer_id));
    let query = signatures::table
        .inner_join(staff::table.on(same))
        .filter(is_any_of(signatures::note_id, notes.iter().copied()))
        .order((signatures::signed_at, signatures::id))
        .select(Signature::as_select());
    tx.load(query).await
}

fn hash(salt: &[u8], content: &Content<'_>) -> [u8; 32] {
    let Content { tenant, note, number, patient, encounter, kind, authored_at, author, title, body } = content;
    let framed = frame(&[
        b"cordon.note.v1",
        salt,
        tenant.0.as_bytes(),
        note.0.as_bytes(),
        number.to_string().as_bytes(),
        patient.0.as_bytes(),
        encounter.as_ref().map(|id| id.0.as_bytes().as_slice()).unwrap_or_default(),
        kind.as_bytes(),
        time(authored_at).as_bytes(),
        author.as_ref().map(|id| id.0.as_bytes().as_slice()).unwrap_or_default(),
        title.unwrap_or_default().as_bytes(),
        body.as_bytes(),
    ]);
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(digest::digest(&digest::SHA256, &framed).as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}

fn statement(content: &Content<'_>, hash: &[u8; 32], signing: Signing) -> Vec<u8> {
    frame(&[
        b"cordon.signature.v1",
        content.tenant.0.as_bytes(),
        content.note.0.as_bytes(),
        content.number.to_string().as_bytes(),
        hash,
        signing.signer.0.as_bytes(),
        signing.meaning.as_str().as_bytes(),
        time(&signing.at).as_bytes(),
    ])
}

fn time(at: &DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Whether a kept signature is of this content: the salt opened, the hash made again, the signature verified.
pub fn verify(
    keys: &TenantKeys,
    content: &Content<'_>,
    signing: Signing,
    salt: &[u8],
    stored_hash: &[u8],
    signature: &[u8],
) -> bool {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    let hash = hash(salt, content);
    let genuine =
        UnparsedPublicKey::new(&ED25519, keys.verify_key()).verify(&statement(content, &hash, signing), signature);
    hash == stored_hash && genuine.is_ok()
}

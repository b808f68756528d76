//! Signatures under notes: what is hashed, what is signed, and the rows.
//!
//! Hashed with SHA-256, each part behind its length (u32, big endian): `cordon.note.v1`, the salt (32 bytes), tenant, note, number of the
//! version, patient, encounter, type, when it was authored, author, title, body. Ids are their 16 bytes, what is absent is empty, numbers are
//! decimal, times RFC 3339 in UTC with microseconds, texts UTF-8 as stored. The salt is sealed, so the hash confirms no guess about a text,
//! and is gone with the tenant's keys.
//! Signed with the tenant's Ed25519 key, in the same framing: `cordon.signature.v1`, tenant, note, number of the version, the hash, signer,
//! meaning, when it was signed.

use super::sql::text_enum;
use crate::audit::hex;
use crate::crypto::{TenantKeys, frame, fresh_key};
use crate::db::schema::tenant::{note_signatures as signatures, staff};
use crate::error::Result;
use crate::guard::TenantTx;
use crate::ids::{EncounterId, NoteId, PatientId, SignatureId, StaffId, TenantId};
use crate::model::fields::SignatureSalt;
use aws_lc_rs::digest;
use chrono::{DateTime, SecondsFormat, Utc};
use diesel::prelude::*;

text_enum!(
    /// What a signature says.
    Meaning {
        /// I wrote this.
        Author = "AUTHOR",
        /// I stand for this, though another wrote it.
        Signer = "SIGNER",
    }
);

/// A signature, as it is shown.
#[derive(Debug, Queryable)]
pub struct Signature {
    /// Under which note.
    pub note: NoteId,
    /// Who.
    pub signer: StaffId,
    /// The signer's name.
    pub signer_name: Option<String>,
    /// What it says.
    pub meaning: Meaning,
    /// When.
    pub signed_at: DateTime<Utc>,
}

/// What of a note is signed.
#[derive(Debug, Clone)]
pub struct Content<'a> {
    /// Whose.
    pub tenant: TenantId,
    /// Which note.
    pub note: NoteId,
    /// Which version of it.
    pub number: i32,
    /// In whose chart.
    pub patient: PatientId,
    /// For which encounter.
    pub encounter: Option<EncounterId>,
    /// LOINC document code.
    pub kind: &'a str,
    /// When it was written.
    pub authored_at: DateTime<Utc>,
    /// Who wrote it.
    pub author: Option<StaffId>,
    /// The title.
    pub title: Option<&'a str>,
    /// The text.
    pub body: &'a str,
}

/// Who signs, and how.
#[derive(Debug, Clone, Copy)]
pub struct Signing {
    /// Who.
    pub signer: StaffId,
    /// What it says.
    pub meaning: Meaning,
    /// When.
    pub at: DateTime<Utc>,
}

/// Signs a version of a note and keeps the signature.
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

/// The signatures under these notes, each note's in the order of their making.
pub async fn of_notes(tx: &TenantTx, notes: &[NoteId]) -> Result<Vec<Signature>> {
    let same = staff::tenant_id.eq(signatures::tenant_id).and(staff::id.eq(signatures::signer_id));
    let query = signatures::table
        .inner_join(staff::table.on(same))
        .filter(signatures::note_id.eq_any(notes))
        .order((signatures::signed_at, signatures::id))
        .select((signatures::note_id, signatures::signer_id, staff::name, signatures::meaning, signatures::signed_at));
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

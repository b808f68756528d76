//! Clinical rules of encounters: the limits of their texts.

/// Limit for the class, in characters. Its codes are those of HL7 v3 ActCode, such as AMB, EMER and IMP.
pub const MAX_CLASS_CHARS: usize = 50;
/// Limit for the reason of an encounter and for the reason of its cancellation, in Unicode characters.
pub const MAX_REASON_CHARS: usize = 4_000;

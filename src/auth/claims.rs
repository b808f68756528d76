//! Turns the claims of a verified token into a principal: parses JSON without repeated member names, and checks each
//! claim. A malformed claim refuses the whole token, because two parsers could read it differently.

use super::Principal;
use crate::config::ClaimNames;
use crate::ids::TenantId;
use chrono::{DateTime, Utc};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

const MAX_SUBJECT_CHARS: usize = 255;
const MAX_NAME_CHARS: usize = 200;
const MAX_ROLE_BYTES: usize = 32;
const MAX_ROLES: usize = 16;

/// A JSON object in which, at any depth, no object repeats a member name.
pub(super) struct JsonObject(Map<String, Value>);

impl JsonObject {
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        match serde_json::from_slice(json) {
            Ok(UniqueMembers(Value::Object(object))) => Some(Self(object)),
            _ => None,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Returns a time in seconds since 1970. A fraction is cut off.
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and the extreme values are refused")]
    fn seconds(&self, name: &str) -> Option<i64> {
        let number = self.0.get(name)?;
        number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64))
    }

    fn texts(&self, name: &str) -> Option<Vec<&str>> {
        self.0.get(name)?.as_array()?.iter().map(Value::as_str).collect()
    }
}

/// The rules for claims that are the same for every issuer.
pub(super) struct ClaimRules {
    pub(super) audience: String,
    /// Seconds by which the issuer's clock may be ahead of this one.
    pub(super) leeway: i64,
    /// The most seconds that `exp` may lie in the future.
    pub(super) max_lifetime: i64,
}

impl ClaimRules {
    /// Returns the principal that verified claims describe, or the reason why the claims are invalid.
    pub(super) fn principal(
        &self,
        issuer: &str,
        names: &ClaimNames,
        claims: &JsonObject,
        now: DateTime<Utc>,
    ) -> Result<Principal, &'static str> {
        if !self.audience_matches(claims) {
            return Err("aud");
        }
        let expires_at = self.expiry(claims, now.timestamp())?;
        let subject = claims.text("sub").filter(|subject| is_single_line(subject, MAX_SUBJECT_CHARS)).ok_or("sub")?;
        let tenants = claims.texts(&names.tenants).ok_or("tenants")?;
        let tenants = distinct(tenants.into_iter().map(|id| id.parse::<TenantId>().ok())).ok_or("tenants")?;
        let roles = claims.texts(&names.roles).filter(|roles| roles.len() <= MAX_ROLES).ok_or("roles")?;
        let roles = distinct(roles.into_iter().map(|role| is_role(role).then(|| role.to_owned()))).ok_or("roles")?;
        let name = match claims.0.get(&names.name) {
            None | Some(Value::Null) => None,
            Some(name) => {
                Some(name.as_str().filter(|name| is_single_line(name, MAX_NAME_CHARS)).ok_or("name")?.to_owned())
            }
        };
        let acting = match claims.0.get("act") {
            None => None,
            Some(act) => {
                let subject =
                    act.get("sub").and_then(Value::as_str).filter(|subject| is_single_line(subject, MAX_SUBJECT_CHARS));
                Some(subject.ok_or("act")?.to_owned())
            }
        };
        Ok(Principal {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            name,
            tenants,
            roles,
            acting,
            expires_at,
        })
    }

    /// Tells whether `aud`, a string or an array of strings, contains the configured audience.
    fn audience_matches(&self, claims: &JsonObject) -> bool {
        match claims.text("aud") {
            Some(audience) => audience == self.audience,
            None => claims.texts("aud").is_some_and(|audiences| audiences.contains(&self.audience.as_str())),
        }
    }

    /// Checks `exp`, `nbf` and `iat`, and returns the time of expiry. The leeway applies to an issuer whose clock is
    /// ahead, never to an expired token.
    fn expiry(&self, claims: &JsonObject, now: i64) -> Result<DateTime<Utc>, &'static str> {
        let exp = claims.seconds("exp").ok_or("no exp")?;
        if exp <= now {
            return Err("expired");
        }
        if exp > now.saturating_add(self.max_lifetime) {
            return Err("exp too far ahead");
        }
        for name in ["nbf", "iat"] {
            let must_hold = name == "iat" || claims.has(name);
            if must_hold && claims.seconds(name).is_none_or(|start| start > now.saturating_add(self.leeway)) {
                return Err("not valid yet");
            }
        }
        DateTime::from_timestamp(exp, 0).ok_or("exp")
    }
}

/// Tells whether `text` has 1 to `max_chars` characters, none of them a control character.
fn is_single_line(text: &str, max_chars: usize) -> bool {
    !text.is_empty() && text.chars().count() <= max_chars && !text.chars().any(char::is_control)
}

/// Tells whether `role` matches `[a-z][a-z_]{0,31}`.
fn is_role(role: &str) -> bool {
    role.len() <= MAX_ROLE_BYTES
        && role.starts_with(|first: char| first.is_ascii_lowercase())
        && role.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// Returns the items without repetitions, in their order, or `None` when an item is `None`.
fn distinct<T: PartialEq>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let mut unique = Vec::new();
    for item in items {
        let item = item?;
        if !unique.contains(&item) {
            unique.push(item);
        }
    }
    Some(unique)
}

/// A JSON value in which no object repeats a member name. serde_json alone would keep the last of several members,
/// other parsers keep the first.
struct UniqueMembers(Value);

impl<'de> Deserialize<'de> for UniqueMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueMembersVisitor)
    }
}

struct UniqueMembersVisitor;

impl<'de> Visitor<'de> for UniqueMembersVisitor {
    type Value = UniqueMembers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON in which no name occurs twice")
    }

    fn visit_unit<E>(self) -> Result<UniqueMembers, E> {
        Ok(UniqueMembers(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<UniqueMembers, E> {
        Ok(UniqueMembers(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<UniqueMembers, E> {
        Ok(UniqueMembers(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<UniqueMembers, E> {
        Ok(UniqueMembers(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<UniqueMembers, E> {
        Number::from_f64(value)
            .map(|number| UniqueMembers(Value::Number(number)))
            .ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<UniqueMembers, E> {
        Ok(UniqueMembers(Value::String(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<UniqueMembers, A::Error> {
        let mut array = Vec::new();
        while let Some(UniqueMembers(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(UniqueMembers(Value::Array(array)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<UniqueMembers, A::Error> {
        let mut object = Map::new();
        while let Some((name, UniqueMembers(value))) = entries.next_entry::<String, _>()? {
            if object.insert(name, value).is_some() {
                return Err(de::Error::custom("a name occurs twice"));
            }
        }
        Ok(UniqueMembers(Value::Object(object)))
    }
}

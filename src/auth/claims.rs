//! Claims to a principal: JSON in which no name occurs twice, and the rules each claim must meet. Anything malformed refuses the token:
//! a claim that two readers could read differently is not read at all.

use super::Principal;
use crate::config::ClaimNames;
use crate::ids::TenantId;
use chrono::{DateTime, Utc};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

const LONGEST_SUBJECT: usize = 255;
const LONGEST_NAME: usize = 200;
const LONGEST_ROLE: usize = 32;
const MOST_ROLES: usize = 16;

/// A JSON object without repeated names, at any depth.
pub(super) struct Object(Map<String, Value>);

impl Object {
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        match serde_json::from_slice(json) {
            Ok(Once(Value::Object(object))) => Some(Self(object)),
            _ => None,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Seconds since 1970. A fraction is cut off.
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and what lies at the ends is refused")]
    fn seconds(&self, name: &str) -> Option<i64> {
        let number = self.0.get(name)?;
        number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64))
    }

    fn texts(&self, name: &str) -> Option<Vec<&str>> {
        self.0.get(name)?.as_array()?.iter().map(Value::as_str).collect()
    }
}

/// What holds for every issuer's claims.
pub(super) struct Rules {
    pub(super) audience: String,
    pub(super) leeway: i64,
    pub(super) max_lifetime: i64,
}

impl Rules {
    /// The principal that verified claims describe, or the reason why they describe none.
    pub(super) fn principal(
        &self,
        issuer: &str,
        names: &ClaimNames,
        claims: &Object,
        now: DateTime<Utc>,
    ) -> Result<Principal, &'static str> {
        if !self.for_us(claims) {
            return Err("aud");
        }
        let expires_at = self.expiry(claims, now.timestamp())?;
        let subject = claims.text("sub").filter(|subject| is_line(subject, LONGEST_SUBJECT)).ok_or("sub")?;
        let tenants = claims.texts(&names.tenants).ok_or("tenants")?;
        let tenants = distinct(tenants.into_iter().map(|id| id.parse::<TenantId>().ok())).ok_or("tenants")?;
        let roles = claims.texts(&names.roles).filter(|roles| roles.len() <= MOST_ROLES).ok_or("roles")?;
        let roles = distinct(roles.into_iter().map(|role| is_role(role).then(|| role.to_owned()))).ok_or("roles")?;
        let name = match claims.0.get(&names.name) {
            None | Some(Value::Null) => None,
            Some(name) => Some(name.as_str().filter(|name| is_line(name, LONGEST_NAME)).ok_or("name")?.to_owned()),
        };
        let acting = match claims.0.get("act") {
            None => None,
            Some(act) => {
                let subject =
                    act.get("sub").and_then(Value::as_str).filter(|subject| is_line(subject, LONGEST_SUBJECT));
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

    /// Whether `aud`, one or an array, names us.
    fn for_us(&self, claims: &Object) -> bool {
        match claims.text("aud") {
            Some(audience) => audience == self.audience,
            None => claims.texts("aud").is_some_and(|audiences| audiences.contains(&self.audience.as_str())),
        }
    }

    /// Checks the times. Leeway is for an issuer whose clock is ahead of ours, never for a token that is over.
    fn expiry(&self, claims: &Object, now: i64) -> Result<DateTime<Utc>, &'static str> {
        let exp = claims.seconds("exp").ok_or("no exp")?;
        if exp <= now {
            return Err("expired");
        }
        if exp > now.saturating_add(self.max_lifetime) {
            return Err("exp too far ahead");
        }
        for name in ["nbf", "iat"] {
            let needed = name == "iat" || claims.has(name);
            if needed && claims.seconds(name).is_none_or(|start| start > now.saturating_add(self.leeway)) {
                return Err("not valid yet");
            }
        }
        DateTime::from_timestamp(exp, 0).ok_or("exp")
    }
}

/// Neither empty nor longer than `most` letters, and without control characters.
fn is_line(text: &str, most: usize) -> bool {
    !text.is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control)
}

/// `[a-z][a-z_]{0,31}`
fn is_role(role: &str) -> bool {
    role.len() <= LONGEST_ROLE
        && role.starts_with(|first: char| first.is_ascii_lowercase())
        && role.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// All of them, each once; `None` when one is.
fn distinct<T: PartialEq>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let mut kept = Vec::new();
    for item in items {
        let item = item?;
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    Some(kept)
}

/// A JSON value in which no object has a name twice. serde_json alone keeps the last one, others the first.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OnceVisitor)
    }
}

struct OnceVisitor;

impl<'de> Visitor<'de> for OnceVisitor {
    type Value = Once;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON in which no name occurs twice")
    }

    fn visit_unit<E>(self) -> Result<Once, E> {
        Ok(Once(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Once, E> {
        Ok(Once(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Once, E> {
        Ok(Once(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Once, E> {
        Ok(Once(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Once, E> {
        Number::from_f64(value).map(|number| Once(Value::Number(number))).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Once, E> {
        Ok(Once(Value::String(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Once, A::Error> {
        let mut array = Vec::new();
        while let Some(Once(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Once(Value::Array(array)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Once, A::Error> {
        let mut object = Map::new();
        while let Some((name, Once(value))) = entries.next_entry::<String, _>()? {
            if object.insert(name, value).is_some() {
                return Err(de::Error::custom("a name occurs twice"));
            }
        }
        Ok(Once(Value::Object(object)))
    }
}

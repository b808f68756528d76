//! One entry of a Bundle: its resource, still unread, and what the entry says about it.
//! All types of Bundle (transaction, batch, collection, searchset, history, document) are read alike.

use super::Defect;
use super::element::{Text, said};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// What a transaction or a history wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Store it: POST, PUT, or not said.
    Store,
    /// Delete it.
    Delete,
}

/// One entry of a Bundle.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The address its resource has within the Bundle.
    pub full_url: Option<Cow<'a, str>>,
    /// The resource, as JSON; absent in answers and deletions.
    pub resource: Option<&'a str>,
    /// What should be done with it.
    pub method: Method,
    /// `request.url`: `Patient/abc` in an update or deletion.
    pub target: Option<Cow<'a, str>>,
}

impl<'a> Entry<'a> {
    /// Reads the entry around the resource.
    pub fn read(text: &'a str) -> Result<Self, Defect> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire<'a> {
            #[serde(borrow)]
            full_url: Option<Text<'a>>,
            #[serde(borrow)]
            resource: Option<&'a RawValue>,
            #[serde(borrow)]
            request: Option<Request<'a>>,
        }
        #[derive(Deserialize)]
        struct Request<'a> {
            #[serde(borrow)]
            method: Option<Text<'a>>,
            #[serde(borrow)]
            url: Option<Text<'a>>,
        }
        let wire: Wire = serde_json::from_str(text)?;
        let delete = wire
            .request
            .as_ref()
            .and_then(|request| said(&request.method))
            .is_some_and(|method| method.eq_ignore_ascii_case("DELETE"));
        Ok(Self {
            full_url: wire.full_url.map(|url| url.0),
            resource: wire.resource.map(RawValue::get),
            method: if delete { Method::Delete } else { Method::Store },
            target: wire.request.and_then(|request| request.url).map(|url| url.0),
        })
    }

    /// The address that tells the key of a resource without an id: the `fullUrl`, else the target of an update.
    pub fn address(&self) -> Option<&str> {
        self.full_url.as_deref().or(self.target.as_deref().filter(|url| url.contains('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_all_kinds() {
        let post =
            Entry::read(r#"{"fullUrl":"urn:uuid:1","resource":{"resourceType":"Patient"},"request":{"method":"POST","url":"Patient"}}"#)
                .unwrap();
        assert_eq!(post.resource, Some(r#"{"resourceType":"Patient"}"#));
        assert_eq!(post.address(), Some("urn:uuid:1"));
        let put =
            Entry::read(r#"{"resource":{"resourceType":"Patient"},"request":{"method":"PUT","url":"Patient/7"}}"#)
                .unwrap();
        assert_eq!((put.method, put.address()), (Method::Store, Some("Patient/7")));
        let delete = Entry::read(r#"{"request":{"method":"DELETE","url":"Patient/7"}}"#).unwrap();
        assert_eq!((delete.method, delete.resource), (Method::Delete, None));
        assert!(Entry::read(r#"{"response":{"status":"201"}}"#).unwrap().resource.is_none());
        assert_eq!(Entry::read(r#"{"resource":{"#).unwrap_err(), Defect::MalformedJson);
    }
}

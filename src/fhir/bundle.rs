//! The entries of a Bundle: the unread resource, its address and the requested method.
//! All types of Bundle (transaction, batch, collection, searchset, history, document) are read in the same way.

use super::FhirError;
use super::element::{JsonStr, non_blank};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The method that a transaction or a history requests for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryMethod {
    /// Create or update the resource: POST, PUT, or no method.
    Store,
    /// Delete the resource.
    Delete,
}

/// One entry of a Bundle.
#[derive(Debug)]
pub struct BundleEntry<'a> {
    /// The `fullUrl`: the address of the resource within the Bundle.
    pub full_url: Option<Cow<'a, str>>,
    /// The resource as JSON text; absent in responses and deletions.
    pub resource: Option<&'a str>,
    /// The method that the entry requests.
    pub method: EntryMethod,
    /// `request.url`, such as `Patient/abc` in an update or deletion.
    pub target: Option<Cow<'a, str>>,
}

impl<'a> BundleEntry<'a> {
    /// Reads an entry without its resource, which is kept as text.
    pub fn read(text: &'a str) -> Result<Self, FhirError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Entry<'a> {
            #[serde(borrow)]
            full_url: Option<JsonStr<'a>>,
            #[serde(borrow)]
            resource: Option<&'a RawValue>,
            #[serde(borrow)]
            request: Option<Request<'a>>,
        }
        #[derive(Deserialize)]
        struct Request<'a> {
            #[serde(borrow)]
            method: Option<JsonStr<'a>>,
            #[serde(borrow)]
            url: Option<JsonStr<'a>>,
        }
        let entry: Entry = serde_json::from_str(text)?;
        let is_delete = entry
            .request
            .as_ref()
            .and_then(|request| non_blank(&request.method))
            .is_some_and(|method| method.eq_ignore_ascii_case("DELETE"));
        Ok(Self {
            full_url: entry.full_url.map(|url| url.0),
            resource: entry.resource.map(RawValue::get),
            method: if is_delete { EntryMethod::Delete } else { EntryMethod::Store },
            target: entry.request.and_then(|request| request.url).map(|url| url.0),
        })
    }

    /// Returns the address that gives a resource without an id its key: the `fullUrl`, or else the target of an update.
    pub fn address(&self) -> Option<&str> {
        self.full_url.as_deref().or(self.target.as_deref().filter(|url| url.contains('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_resource_and_address_of_an_entry_are_read() {
        let post = BundleEntry::read(
            r#"{"fullUrl":"urn:uuid:1","resource":{"resourceType":"Patient"},
                "request":{"method":"POST","url":"Patient"}}"#,
        )
        .unwrap();
        assert_eq!(post.resource, Some(r#"{"resourceType":"Patient"}"#));
        assert_eq!(post.address(), Some("urn:uuid:1"));
        let put = BundleEntry::read(
            r#"{"resource":{"resourceType":"Patient"},"request":{"method":"PUT","url":"Patient/7"}}"#,
        )
        .unwrap();
        assert_eq!((put.method, put.address()), (EntryMethod::Store, Some("Patient/7")));
        let delete = BundleEntry::read(r#"{"request":{"method":"DELETE","url":"Patient/7"}}"#).unwrap();
        assert_eq!((delete.method, delete.resource), (EntryMethod::Delete, None));
        assert!(BundleEntry::read(r#"{"response":{"status":"201"}}"#).unwrap().resource.is_none());
        assert_eq!(BundleEntry::read(r#"{"resource":{"#).unwrap_err(), FhirError::MalformedJson);
    }
}

//! A cache of parsed documents that passed the limits, by their text: a front end sends the same few documents over and
//! over, with other variables. A document with a string literal or a comment is not cached, because it may contain a
//! patient's name. Like the schema, the cache belongs to no tenant; it holds no variables and no responses.

use async_graphql::parser::types::ExecutableDocument;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Limit for the texts of all cached documents together.
const MAX_CACHE_BYTES: usize = 256 << 10;
/// A longer document is not cached.
const MAX_DOCUMENT_BYTES: usize = 8 << 10;

/// Parsed documents by their text.
#[derive(Default)]
pub struct DocumentCache(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    documents: HashMap<String, Arc<ExecutableDocument>>,
    bytes: usize,
}

impl DocumentCache {
    /// Returns the cached document with this text.
    pub fn get(&self, text: &str) -> Option<Arc<ExecutableDocument>> {
        self.0.lock().documents.get(text).cloned()
    }

    /// Caches a document that has been executed, unless it is too long or may contain a name. When the cache is full it
    /// is emptied first: documents that are sent often are soon cached again.
    pub fn insert(&self, text: &str, document: &Arc<ExecutableDocument>) {
        if text.len() > MAX_DOCUMENT_BYTES || text.contains(['"', '#']) {
            return;
        }
        let mut evicted = Entries::default();
        let mut entries = self.0.lock();
        if entries.documents.contains_key(text) {
            return;
        }
        if entries.bytes + text.len() > MAX_CACHE_BYTES {
            evicted = std::mem::take(&mut *entries);
        }
        entries.bytes += text.len();
        entries.documents.insert(text.to_owned(), Arc::clone(document));
        drop(entries);
        // Freed after the lock, so that no other request waits for it.
        drop(evicted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::parser::parse_query;

    fn is_cached(documents: &DocumentCache, text: &str) -> bool {
        documents.insert(text, &Arc::new(parse_query(text).unwrap()));
        documents.get(text).is_some()
    }

    #[test]
    fn a_document_that_may_contain_a_name_is_not_cached() {
        let documents = DocumentCache::default();
        assert!(is_cached(&documents, "query ($search: String) { patients(search: $search) { nodes { id } } }"));
        for text in [
            "{ patients(search: \"lovelace\") { nodes { id } } }",
            "# for Ada\n{ viewer { id } }",
            &format!("{{ {} }}", "a ".repeat(5_000)),
        ] {
            assert!(!is_cached(&documents, text), "{text:.40}");
        }
    }

    #[test]
    fn the_cache_is_bounded() {
        let documents = DocumentCache::default();
        for n in 0..3 * MAX_CACHE_BYTES / 4_000 {
            assert!(is_cached(&documents, &format!("{{ a{n} {} }}", "a ".repeat(2_000))));
            let entries = documents.0.lock();
            let bytes: usize = entries.documents.keys().map(String::len).sum();
            assert!(entries.bytes <= MAX_CACHE_BYTES && entries.bytes == bytes);
        }
    }
}

//! Documents that were parsed and found within the limits before, by their text: a front end asks the same few over and over, with variables.
//! A text that holds a string or a comment is not kept, because a name may stand in it. Like the schema this belongs to no tenant; no variable
//! and no answer is here.

use async_graphql::parser::types::ExecutableDocument;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of the texts that are kept, together.
const MOST: usize = 256 << 10;
/// Bytes of a text that is kept.
const LONGEST: usize = 8 << 10;

/// Documents by their text.
#[derive(Default)]
pub struct DocumentCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    documents: HashMap<String, Arc<ExecutableDocument>>,
    bytes: usize,
}

impl DocumentCache {
    /// The document of this text, if it was kept.
    pub fn get(&self, text: &str) -> Option<Arc<ExecutableDocument>> {
        self.0.lock().documents.get(text).cloned()
    }

    /// Keeps a document that has run, where it may be kept. When there is no more room, all make place: what is asked often is soon back.
    pub fn keep(&self, text: &str, document: &Arc<ExecutableDocument>) {
        if text.len() > LONGEST || text.contains(['"', '#']) {
            return;
        }
        let mut gone = Kept::default();
        let mut kept = self.0.lock();
        if kept.documents.contains_key(text) {
            return;
        }
        if kept.bytes + text.len() > MOST {
            gone = std::mem::take(&mut *kept);
        }
        kept.bytes += text.len();
        kept.documents.insert(text.to_owned(), Arc::clone(document));
        drop(kept);
        // Nobody waits for that.
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::parser::parse_query;

    fn kept(documents: &DocumentCache, text: &str) -> bool {
        documents.keep(text, &Arc::new(parse_query(text).unwrap()));
        documents.get(text).is_some()
    }

    #[test]
    fn what_may_hold_a_name_is_not_kept() {
        let documents = DocumentCache::default();
        assert!(kept(&documents, "query ($search: String) { patients(search: $search) { nodes { id } } }"));
        for text in [
            "{ patients(search: \"lovelace\") { nodes { id } } }",
            "# for Ada\n{ viewer { id } }",
            &format!("{{ {} }}", "a ".repeat(5_000)),
        ] {
            assert!(!kept(&documents, text), "{text:.40}");
        }
    }

    #[test]
    fn there_are_never_more_than_a_few() {
        let documents = DocumentCache::default();
        for n in 0..3 * MOST / 4_000 {
            assert!(kept(&documents, &format!("{{ a{n} {} }}", "a ".repeat(2_000))));
            let all = documents.0.lock();
            assert!(all.bytes <= MOST && all.bytes == all.documents.keys().map(String::len).sum::<usize>());
        }
    }
}

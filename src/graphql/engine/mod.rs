//! What runs a document, whatever the schema: requests as clients write them, the limits, known documents, batches of loads, and the shape of
//! the response. Knows no type of the API.

pub(super) mod batch;
pub(super) mod documents;
pub(super) mod limits;
pub mod request;
pub(super) mod shaper;

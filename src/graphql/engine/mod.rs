//! Execution of requests, whatever the schema: reading a request, the limits, the cache of documents, batch loading,
//! and the form of the response. It knows no type of the API.

pub(super) mod batch;
mod documents;
pub(super) mod executor;
mod limits;
pub(super) mod request;
pub(super) mod response;
mod shaper;

//! The body of a response that keeps its admission permit until it has been sent. The body is handed to the connection
//! in chunks, as the client reads them. A request counts against its tenant's concurrency limit until the last chunk
//! has been taken, so responses that nobody reads use up only their own tenant's slots. Bytes that the connection
//! itself still buffers after that are not counted.

use crate::admission::AdmissionPermit;
use actix_web::body::{BodySize, MessageBody};
use actix_web::rt;
use actix_web::web::Bytes;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

const CHUNK_BYTES: usize = 64 << 10;

/// A response body together with the admission permit of its request.
pub struct PermitBody<P = AdmissionPermit> {
    length: u64,
    unsent: Arc<Mutex<Unsent<P>>>,
}

/// The part of the body that the connection has not taken yet.
struct Unsent<P> {
    bytes: Bytes,
    /// `None` once the last chunk was taken or the client stalled.
    permit: Option<P>,
    /// Whether a chunk was taken since the watcher looked last.
    progressed: bool,
    aborted: bool,
}

/// The client took no chunk of its response for too long. The connection (HTTP/1.1) or the stream (HTTP/2) ends with
/// this error.
#[derive(Debug, thiserror::Error)]
#[error("the client does not read its response")]
pub struct ClientStalled;

impl<P: 'static> PermitBody<P> {
    /// Keeps `permit` until the last chunk of `body` has been taken. When the client takes no chunk for
    /// `stall_timeout`, the permit is returned and the response is aborted, after at most twice that time. HTTP/2 needs
    /// this: a client that reads nothing of one stream can keep its connection healthy, so the socket's own timeout
    /// does not end it.
    pub fn new(body: String, permit: P, stall_timeout: Duration) -> Self {
        let bytes = Bytes::from(body);
        let (length, several_chunks) = (bytes.len() as u64, bytes.len() > CHUNK_BYTES);
        let unsent = Arc::new(Mutex::new(Unsent { bytes, permit: Some(permit), progressed: true, aborted: false }));
        if several_chunks {
            rt::spawn(abort_when_stalled(Arc::downgrade(&unsent), stall_timeout));
        }
        Self { length, unsent }
    }
}

async fn abort_when_stalled<P>(unsent: Weak<Mutex<Unsent<P>>>, stall_timeout: Duration) {
    loop {
        rt::time::sleep(stall_timeout).await;
        let Some(unsent) = unsent.upgrade() else { return };
        let mut unsent = unsent.lock();
        if unsent.permit.is_none() {
            return;
        }
        if !std::mem::take(&mut unsent.progressed) {
            (unsent.bytes, unsent.permit, unsent.aborted) = (Bytes::new(), None, true);
            return;
        }
    }
}

impl<P> MessageBody for PermitBody<P> {
    type Error = ClientStalled;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.length)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, ClientStalled>>> {
        let mut unsent = self.unsent.lock();
        let length = unsent.bytes.len().min(CHUNK_BYTES);
        let chunk = unsent.bytes.split_to(length);
        unsent.progressed = true;
        if unsent.bytes.is_empty() {
            unsent.permit = None;
        }
        Poll::Ready(match (unsent.aborted, chunk.is_empty()) {
            (true, _) => Some(Err(ClientStalled)),
            (false, true) => None,
            (false, false) => Some(Ok(chunk)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn next<P>(body: &mut PermitBody<P>) -> Option<Result<Bytes, ClientStalled>> {
        poll_fn(|context| Pin::new(&mut *body).poll_next(context)).await
    }

    #[actix_web::test]
    async fn the_permit_is_kept_until_the_last_chunk_is_taken() {
        let permit = Arc::new(());
        let mut body = PermitBody::new("x".repeat(2 * CHUNK_BYTES + 1), Arc::clone(&permit), Duration::from_secs(60));
        assert_eq!(body.size(), BodySize::Sized(2 * CHUNK_BYTES as u64 + 1));
        for (length, holders) in [(CHUNK_BYTES, 2), (CHUNK_BYTES, 2), (1, 1)] {
            assert_eq!((next(&mut body).await.unwrap().unwrap().len(), Arc::strong_count(&permit)), (length, holders));
        }
        assert!(next(&mut body).await.is_none());
    }

    #[actix_web::test]
    async fn a_stalled_client_is_cut_off_and_a_slow_one_is_not() {
        let permit = Arc::new(());
        let [mut slow, mut stalled] = [(); 2]
            .map(|()| PermitBody::new("x".repeat(9 * CHUNK_BYTES), Arc::clone(&permit), Duration::from_millis(200)));
        for _ in 0..8 {
            rt::time::sleep(Duration::from_millis(100)).await;
            assert!(next(&mut slow).await.unwrap().is_ok());
        }
        assert_eq!(Arc::strong_count(&permit), 2, "the stalled body has returned its permit");
        assert!(next(&mut stalled).await.unwrap().is_err());
        assert!(next(&mut slow).await.unwrap().is_ok() && next(&mut slow).await.is_none());
        assert_eq!(Arc::strong_count(&permit), 1);
    }
}

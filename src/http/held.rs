//! The body of an answer, handed on in pieces as the client takes them. Whoever was let in counts as inside until the last piece: answers that
//! nobody reads fill up their own tenant's places. What the connection itself keeps of the last pieces is beyond it.

use crate::admission::AdmissionPermit;
use actix_web::body::{BodySize, MessageBody};
use actix_web::rt;
use actix_web::web::Bytes;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

/// What is handed on at once, in bytes.
const PIECE: usize = 64 << 10;

/// An answer and the pass it was made under.
pub struct Held<P = AdmissionPermit> {
    length: u64,
    rest: Arc<Mutex<Rest<P>>>,
}

struct Rest<P> {
    body: Bytes,
    pass: Option<P>,
    /// Whether something was taken since it was last looked at.
    moved: bool,
    cut: bool,
}

/// The client took nothing of its answer for too long.
#[derive(Debug, thiserror::Error)]
#[error("the client does not take its answer")]
pub struct Stalled;

impl<P: 'static> Held<P> {
    /// Holds the pass for as long as something of the body is left to hand on, and no longer than `stalled` after the client took a piece.
    /// HTTP/2 needs this: a client that takes nothing of one stream may keep its connection in good health.
    pub fn new(body: String, pass: P, stalled: Duration) -> Self {
        let body = Bytes::from(body);
        let (length, long) = (body.len() as u64, body.len() > PIECE);
        let rest = Arc::new(Mutex::new(Rest { body, pass: Some(pass), moved: true, cut: false }));
        if long {
            rt::spawn(watch(Arc::downgrade(&rest), stalled));
        }
        Self { length, rest }
    }
}

async fn watch<P>(rest: Weak<Mutex<Rest<P>>>, stalled: Duration) {
    loop {
        rt::time::sleep(stalled).await;
        let Some(rest) = rest.upgrade() else { return };
        let mut rest = rest.lock();
        if rest.pass.is_none() {
            return;
        }
        if !std::mem::take(&mut rest.moved) {
            (rest.body, rest.pass, rest.cut) = (Bytes::new(), None, true);
            return;
        }
    }
}

impl<P> MessageBody for Held<P> {
    type Error = Stalled;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.length)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Stalled>>> {
        let mut rest = self.rest.lock();
        let piece = rest.body.len().min(PIECE);
        let piece = rest.body.split_to(piece);
        rest.moved = true;
        if rest.body.is_empty() {
            rest.pass = None;
        }
        Poll::Ready(match (rest.cut, piece.is_empty()) {
            (true, _) => Some(Err(Stalled)),
            (false, true) => None,
            (false, false) => Some(Ok(piece)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    async fn next<P>(held: &mut Held<P>) -> Option<Result<Bytes, Stalled>> {
        poll_fn(|context| Pin::new(&mut *held).poll_next(context)).await
    }

    #[actix_web::test]
    async fn the_pass_is_held_until_the_last_piece() {
        let pass = Arc::new(());
        let mut held = Held::new("x".repeat(2 * PIECE + 1), Arc::clone(&pass), Duration::from_secs(60));
        assert_eq!(held.size(), BodySize::Sized(2 * PIECE as u64 + 1));
        for (length, holders) in [(PIECE, 2), (PIECE, 2), (1, 1)] {
            assert_eq!((next(&mut held).await.unwrap().unwrap().len(), Arc::strong_count(&pass)), (length, holders));
        }
        assert!(next(&mut held).await.is_none());
    }

    #[actix_web::test]
    async fn who_stalls_is_cut_off_and_who_is_slow_is_not() {
        let pass = Arc::new(());
        let [mut slow, mut stalled] =
            [(); 2].map(|()| Held::new("x".repeat(9 * PIECE), Arc::clone(&pass), Duration::from_millis(200)));
        for _ in 0..8 {
            rt::time::sleep(Duration::from_millis(100)).await;
            assert!(next(&mut slow).await.unwrap().is_ok());
        }
        assert_eq!(Arc::strong_count(&pass), 2, "one of them has gone");
        assert!(next(&mut stalled).await.unwrap().is_err());
        assert!(next(&mut slow).await.unwrap().is_ok() && next(&mut slow).await.is_none());
        assert_eq!(Arc::strong_count(&pass), 1);
    }
}

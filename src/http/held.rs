//! The body of an answer, handed on in pieces as the client takes them. Whoever was let in counts as inside until the last piece: answers that
//! nobody reads fill up their own tenant's places, not this process.

use crate::guard::Pass;
use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What is handed on at once, in bytes.
const PIECE: usize = 64 << 10;

/// An answer and the pass it was made under.
pub struct Held {
    rest: Bytes,
    _pass: Pass,
}

impl Held {
    /// Holds the pass for as long as something of the body is left.
    pub fn new(body: String, pass: Pass) -> Self {
        Self { rest: body.into(), _pass: pass }
    }
}

impl MessageBody for Held {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.rest.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        let piece = self.rest.len().min(PIECE);
        Poll::Ready((piece > 0).then(|| Ok(self.rest.split_to(piece))))
    }
}

//! The body of a request: its declared type, and its bytes up to the limit. Read only after the caller is known.

use super::response::Refusal;
use crate::error::Error;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::web::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use std::time::Duration;

/// A refused body that is not there by then is not waited for.
const DISCARD_WITHIN: Duration = Duration::from_millis(100);

/// JSON in UTF-8, not compressed: nothing else is read.
pub fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let unsupported = |field, reason| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, field, reason));
    let mut types = headers.get_all(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default().to_ascii_lowercase());
    let (Some(declared), None) = (types.next(), types.next()) else {
        return unsupported("Content-Type", "must be application/json");
    };
    let mut parts = declared.split(';').map(str::trim);
    if parts.next() != Some("application/json") {
        return unsupported("Content-Type", "must be application/json");
    }
    let foreign =
        |part: &str| matches!(part.split_once('='), Some(("charset", charset)) if charset.trim_matches('"') != "utf-8");
    if parts.any(foreign) {
        return unsupported("Content-Type", "must be in UTF-8");
    }
    if headers.get_all(CONTENT_ENCODING).any(|value| value != "identity") {
        return unsupported("Content-Encoding", "must be identity");
    }
    Ok(())
}

/// The bytes, refused as soon as there are too many.
pub async fn read<S, E>(headers: &HeaderMap, mut chunks: S, limit: usize) -> Result<Bytes, Refusal>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let too_large = || Refusal::from(Error::LimitExceeded(format!("the body has more than {limit} bytes")));
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "body", "ended early"))?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Reads on after a refusal, so that the connection can be used again: a refused client that has to connect anew comes at a higher price
/// than its body. What is longer, or slow to come, is left, and the connection closed.
pub async fn discard<S, E>(chunks: S, limit: usize)
where
    S: Stream<Item = Result<Bytes, E>>,
{
    let mut left = limit;
    let rest = chunks.take_while(|chunk| {
        let read = chunk.as_ref().map_or(usize::MAX, Bytes::len);
        left = left.saturating_sub(read);
        std::future::ready(left > 0)
    });
    let _ = tokio::time::timeout(DISCARD_WITHIN, rest.for_each(|_| std::future::ready(()))).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};
    use futures_util::stream;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn json_in_utf8_only() {
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "application/json; x=y",
        ] {
            assert_eq!(check_type(&headers(&[(CONTENT_TYPE, good)])), Ok(()), "{good}");
        }
        for bad in [
            "text/plain",
            "application/graphql",
            "application/json; charset=latin1",
            "application/jsonp",
            "multipart/form-data",
            "",
        ] {
            let refusal = check_type(&headers(&[(CONTENT_TYPE, bad)])).unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{bad}");
        }
        assert!(check_type(&headers(&[])).is_err());
        assert!(check_type(&headers(&[(CONTENT_TYPE, "application/json"), (CONTENT_ENCODING, "gzip")])).is_err());
        let mut twice = headers(&[(CONTENT_TYPE, "application/json")]);
        twice.append(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert!(check_type(&twice).is_err());
    }

    #[test]
    fn the_limit_holds_with_and_without_a_declared_length() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let chunks = || stream::iter((0..4).map(|_| Ok::<_, ()>(Bytes::from_static(b"12345"))));
        let read = |headers: HeaderMap, limit| {
            runtime.block_on(read(&headers, chunks(), limit)).map_err(|refusal| refusal.status.as_u16())
        };
        assert_eq!(read(headers(&[]), 20).unwrap().len(), 20);
        assert_eq!(read(headers(&[]), 19), Err(413));
        assert_eq!(read(headers(&[(CONTENT_LENGTH, "21")]), 20), Err(413));
        let broken = runtime.block_on(super::read(&headers(&[]), stream::iter([Err::<Bytes, _>(())]), 9));
        assert_eq!(broken.unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}

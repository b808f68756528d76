//! The body of a request: its declared media type, and its bytes up to the limit. It is read only after the caller has
//! been authenticated.

use super::response::HttpError;
use crate::error::Error;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::web::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use std::time::Duration;

/// How long `discard` waits for the rest of a body.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(100);

/// Checks that the body is declared as uncompressed JSON in UTF-8.
///
/// # Errors
/// 415 with the name of the header otherwise, also when `Content-Type` is missing or appears more than once.
pub fn check_type(headers: &HeaderMap) -> Result<(), HttpError> {
    let unsupported = |field, reason| Err(HttpError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, field, reason));
    let mut types = headers.get_all(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default().to_ascii_lowercase());
    let (Some(declared), None) = (types.next(), types.next()) else {
        return unsupported("Content-Type", "must be application/json");
    };
    let mut parts = declared.split(';').map(str::trim);
    if parts.next() != Some("application/json") {
        return unsupported("Content-Type", "must be application/json");
    }
    let other_charset =
        |part: &str| matches!(part.split_once('='), Some(("charset", charset)) if charset.trim_matches('"') != "utf-8");
    if parts.any(other_charset) {
        return unsupported("Content-Type", "must be in UTF-8");
    }
    if headers.get_all(CONTENT_ENCODING).any(|value| value != "identity") {
        return unsupported("Content-Encoding", "must be identity");
    }
    Ok(())
}

/// Reads the whole body.
///
/// # Errors
/// 413 `LIMIT_EXCEEDED` as soon as the declared or received length exceeds `limit` bytes; 400 when the body ends early.
pub async fn read<S, E>(headers: &HeaderMap, mut chunks: S, limit: usize) -> Result<Bytes, HttpError>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let too_large = || HttpError::from(Error::LimitExceeded(format!("the body has more than {limit} bytes")));
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|_| HttpError::new(StatusCode::BAD_REQUEST, "body", "ended before it was complete"))?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Reads and drops what is left of a body after its request was refused, so that the connection can be reused: reading
/// a small body costs less than the new connection that the client would open. When the rest exceeds `limit` bytes or
/// does not arrive in time, it is left unread and the connection is closed.
pub async fn discard<S, E>(chunks: S, limit: usize)
where
    S: Stream<Item = Result<Bytes, E>>,
{
    let mut remaining = limit;
    let rest = chunks.take_while(|chunk| {
        let read = chunk.as_ref().map_or(usize::MAX, Bytes::len);
        remaining = remaining.saturating_sub(read);
        std::future::ready(remaining > 0)
    });
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, rest.for_each(|_| std::future::ready(()))).await;
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
            let error = check_type(&headers(&[(CONTENT_TYPE, bad)])).unwrap_err();
            assert_eq!(error.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{bad}");
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
            runtime.block_on(read(&headers, chunks(), limit)).map_err(|error| error.status.as_u16())
        };
        assert_eq!(read(headers(&[]), 20).unwrap().len(), 20);
        assert_eq!(read(headers(&[]), 19), Err(413));
        assert_eq!(read(headers(&[(CONTENT_LENGTH, "21")]), 20), Err(413));
        let broken = runtime.block_on(super::read(&headers(&[]), stream::iter([Err::<Bytes, _>(())]), 9));
        assert_eq!(broken.unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}

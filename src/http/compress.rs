//! Compression of responses: gzip, when the client accepts it and the response is large enough to become smaller.
//!
//! The BREACH attack reads secrets from the compressed size of a response that also holds text chosen by the attacker.
//! It needs a browser that sends the victim's credentials with the attacker's request. Cordon takes bearer tokens only:
//! a browser adds none by itself, and a request from a foreign origin is refused before anything is read (`cors`).

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue};
use actix_web::middleware::Next;

/// Smaller bodies fit into about one packet, so compressing them costs more than it saves.
const MIN_COMPRESS_BYTES: usize = 1400;

/// Marks a response whose body of `length` bytes is too small to be compressed: actix leaves a body with a content
/// encoding alone.
pub fn mark_small_body(headers: &mut HeaderMap, length: usize) {
    if length < MIN_COMPRESS_BYTES {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Wraps actix's own compression. It lets actix choose only between gzip and no compression, and removes the mark of
/// `mark_small_body`.
pub async fn offer_only_gzip(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let accepts_gzip = accepts_gzip(request.headers());
    request.headers_mut().remove(ACCEPT_ENCODING);
    if accepts_gzip {
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let mut response = next.call(request).await?;
    if response.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "identity") {
        response.headers_mut().remove(CONTENT_ENCODING);
    }
    Ok(response)
}

/// Whether `Accept-Encoding` names gzip with a weight above zero.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut values =
        headers.get_all(ACCEPT_ENCODING).filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    values.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight =
            parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |weight| weight.parse::<f32>().ok());
        named && weight.is_some_and(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_must_be_named_with_a_weight() {
        let accepts = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap());
            accepts_gzip(&headers)
        };
        for yes in ["gzip", "GZIP", "deflate, gzip;q=0.1", "br;q=1.0, gzip ; q=0.8, *;q=0.1"] {
            assert!(accepts(yes), "{yes}");
        }
        for no in ["", "br", "identity", "*", "gzip;q=0", "gzip; q=0.0, br", "x-gzip2", "gzip;q=x"] {
            assert!(!accepts(no), "{no}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}

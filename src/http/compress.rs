//! Compression of answers: gzip, when the client takes it and the answer is large enough to gain.
//!
//! Compressing secrets beside what an attacker chose (BREACH) needs a browser that sends the victim's credentials with the attacker's request.
//! Ours are bearer tokens: a browser adds none by itself, and a foreign page is refused before anything is read (`cors`).

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue};
use actix_web::middleware::Next;

/// Bytes below which compressing costs more than it saves: about one packet.
const WORTH_IT: usize = 1400;

/// Marks a body that is sent as it is.
pub fn leave(headers: &mut HeaderMap, length: usize) {
    if length < WORTH_IT {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Around actix's own compression: leaves it gzip or nothing to choose from, and takes the mark off again.
pub async fn gzip_or_nothing(
    mut request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let takes_gzip = takes_gzip(request.headers());
    request.headers_mut().remove(ACCEPT_ENCODING);
    if takes_gzip {
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let mut response = next.call(request).await?;
    if response.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding == "identity") {
        response.headers_mut().remove(CONTENT_ENCODING);
    }
    Ok(response)
}

/// Whether gzip is named with a weight above nothing.
fn takes_gzip(headers: &HeaderMap) -> bool {
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
    fn only_who_names_gzip_gets_it() {
        let takes = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap());
            takes_gzip(&headers)
        };
        for yes in ["gzip", "GZIP", "deflate, gzip;q=0.1", "br;q=1.0, gzip ; q=0.8, *;q=0.1"] {
            assert!(takes(yes), "{yes}");
        }
        for no in ["", "br", "identity", "*", "gzip;q=0", "gzip; q=0.0, br", "x-gzip2", "gzip;q=x"] {
            assert!(!takes(no), "{no}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}

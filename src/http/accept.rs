//! Content negotiation between the two media types of GraphQL over HTTP. The status of a response depends on the media
//! type.

use actix_web::http::header::{ACCEPT, HeaderMap};

/// The media type of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// `application/graphql-response+json`: a request that is no valid GraphQL gets status 400.
    GraphqlResponse,
    /// `application/json`: a well-formed request gets status 200, also when the response holds only errors.
    Json,
}

impl MediaType {
    /// Returns the value of the header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
            Self::Json => "application/json; charset=utf-8",
        }
    }
}

/// Chooses the media type by the header `Accept`. Without the header, or when no range in it is well-formed, this is
/// JSON. Returns `None` when the client accepts neither media type.
pub fn negotiate(headers: &HeaderMap) -> Option<MediaType> {
    let mut ranges = Vec::new();
    for value in headers.get_all(ACCEPT) {
        ranges.extend(value.to_str().ok()?.split(',').filter_map(MediaRange::parse));
    }
    if ranges.is_empty() {
        return Some(MediaType::Json);
    }
    let graphql = Preference::of(&ranges, "graphql-response+json");
    let json = Preference::of(&ranges, "json");
    match (graphql, json) {
        (Some(graphql), Some(json)) if graphql.is_above(&json) => Some(MediaType::GraphqlResponse),
        (_, Some(_)) => Some(MediaType::Json),
        (Some(_), None) => Some(MediaType::GraphqlResponse),
        (None, None) => None,
    }
}

/// One media range of the header `Accept`.
struct MediaRange {
    kind: String,
    subtype: String,
    /// The quality value in thousandths.
    weight: u16,
}

impl MediaRange {
    /// Returns `None` for a range that is malformed or requires a charset other than UTF-8; such a range is ignored.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
        let (kind, subtype) =
            parts.next()?.split_once('/').map(|(kind, subtype)| (kind.to_owned(), subtype.to_owned()))?;
        let mut weight = 1000;
        for parameter in parts {
            match parameter.split_once('=') {
                Some(("q", value)) => {
                    weight = (value.parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q))? * 1000.0) as u16
                }
                Some(("charset", value)) if value.trim_matches('"') != "utf-8" => return None,
                _ => {}
            }
        }
        Some(Self { kind, subtype, weight })
    }

    /// How specifically the range matches a subtype of `application`, or `None` when it does not match.
    fn specificity(&self, subtype: &str) -> Option<u8> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("application", named) if named == subtype => Some(2),
            ("application", "*") => Some(1),
            ("*", "*") => Some(0),
            _ => None,
        }
    }
}

/// How a client ranks one media type. The most specific range that matches the type decides (RFC 9110, section 12.5.1).
struct Preference {
    weight: u16,
    specificity: u8,
    position: usize,
}

impl Preference {
    /// Returns `None` when no range matches, or when the deciding range has weight 0.
    fn of(ranges: &[MediaRange], subtype: &str) -> Option<Self> {
        let matching = ranges.iter().enumerate().filter_map(|(position, range)| {
            let specificity = range.specificity(subtype)?;
            Some(Self { weight: range.weight, specificity, position })
        });
        matching
            .max_by_key(|preference| (preference.specificity, std::cmp::Reverse(preference.position)))
            .filter(|preference| preference.weight > 0)
    }

    /// Compares by weight, then by specificity, then by the order in the header.
    fn is_above(&self, other: &Self) -> bool {
        let rank =
            |preference: &Self| (preference.weight, preference.specificity, std::cmp::Reverse(preference.position));
        rank(self) > rank(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn choose(values: &[&str]) -> Option<MediaType> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        negotiate(&headers)
    }

    #[test]
    fn the_media_type_follows_the_accept_header() {
        let cases: [(&[&str], Option<MediaType>); 20] = [
            (&[], Some(MediaType::Json)),
            (&["*/*"], Some(MediaType::Json)),
            (&["application/*"], Some(MediaType::Json)),
            (&["application/json"], Some(MediaType::Json)),
            (&["application/graphql-response+json"], Some(MediaType::GraphqlResponse)),
            (&["application/graphql-response+json; charset=utf-8"], Some(MediaType::GraphqlResponse)),
            (&["application/json; charset=\"UTF-8\""], Some(MediaType::Json)),
            (&["application/graphql-response+json, application/json"], Some(MediaType::GraphqlResponse)),
            (&["application/json, application/graphql-response+json"], Some(MediaType::Json)),
            (&["application/json;q=0.5, application/graphql-response+json;q=0.9"], Some(MediaType::GraphqlResponse)),
            (&["application/graphql-response+json;q=0.5, application/json;q=0.9"], Some(MediaType::Json)),
            (&["application/graphql-response+json, */*;q=0.8"], Some(MediaType::GraphqlResponse)),
            (&["text/html", "APPLICATION/JSON"], Some(MediaType::Json)),
            (&["application/json;q=0, */*"], Some(MediaType::GraphqlResponse)),
            (&["application/json;q=0"], None),
            (&["text/html"], None),
            (&["application/xml, image/*"], None),
            (&["application/json; charset=iso-8859-1"], Some(MediaType::Json)),
            (&["application/json; charset=iso-8859-1, text/html"], None),
            (&["text/html;q=1, application/graphql-response+json;q=0.001"], Some(MediaType::GraphqlResponse)),
        ];
        for (values, media_type) in cases {
            assert_eq!(choose(values), media_type, "{values:?}");
        }
    }
}

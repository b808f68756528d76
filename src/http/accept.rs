//! Which of the two media types of GraphQL over HTTP a client takes. The statuses of an answer depend on it.

use actix_web::http::header::{ACCEPT, HeaderMap};

/// The media type of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/graphql-response+json`: statuses mean what they say.
    Response,
    /// `application/json`: a well-formed request gets 200, whatever is in the answer.
    Json,
}

impl Format {
    /// The value of Content-Type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Response => "application/graphql-response+json; charset=utf-8",
            Self::Json => "application/json; charset=utf-8",
        }
    }
}

/// What the client likes best of what there is; `None` when it takes neither.
pub fn negotiate(headers: &HeaderMap) -> Option<Format> {
    let mut ranges = Vec::new();
    for value in headers.get_all(ACCEPT) {
        ranges.extend(value.to_str().ok()?.split(',').filter_map(Range::parse));
    }
    if ranges.is_empty() {
        return Some(Format::Json);
    }
    let response = Liking::of(&ranges, "graphql-response+json");
    let json = Liking::of(&ranges, "json");
    match (response, json) {
        (Some(response), Some(json)) if response.beats(&json) => Some(Format::Response),
        (_, Some(_)) => Some(Format::Json),
        (Some(_), None) => Some(Format::Response),
        (None, None) => None,
    }
}

/// One range of the header, with its weight in thousandths.
struct Range {
    kind: String,
    subtype: String,
    weight: u16,
}

impl Range {
    /// A range that is malformed, or wants another charset than UTF-8, is as if it were not there.
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

    /// How exactly the range names a subtype of `application`.
    fn exactness(&self, subtype: &str) -> Option<u8> {
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("application", named) if named == subtype => Some(2),
            ("application", "*") => Some(1),
            ("*", "*") => Some(0),
            _ => None,
        }
    }
}

/// How much a client likes one type: the most exact range decides.
struct Liking {
    weight: u16,
    exactness: u8,
    position: usize,
}

impl Liking {
    fn of(ranges: &[Range], subtype: &str) -> Option<Self> {
        let matching = ranges.iter().enumerate().filter_map(|(position, range)| {
            let exactness = range.exactness(subtype)?;
            Some(Self { weight: range.weight, exactness, position })
        });
        matching
            .max_by_key(|liking| (liking.exactness, std::cmp::Reverse(liking.position)))
            .filter(|liking| liking.weight > 0)
    }

    /// By weight, then by name, then by order.
    fn beats(&self, other: &Self) -> bool {
        let rank = |liking: &Self| (liking.weight, liking.exactness, std::cmp::Reverse(liking.position));
        rank(self) > rank(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    fn choose(values: &[&str]) -> Option<Format> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        negotiate(&headers)
    }

    #[test]
    fn the_client_chooses() {
        let cases: [(&[&str], Option<Format>); 20] = [
            (&[], Some(Format::Json)),
            (&["*/*"], Some(Format::Json)),
            (&["application/*"], Some(Format::Json)),
            (&["application/json"], Some(Format::Json)),
            (&["application/graphql-response+json"], Some(Format::Response)),
            (&["application/graphql-response+json; charset=utf-8"], Some(Format::Response)),
            (&["application/json; charset=\"UTF-8\""], Some(Format::Json)),
            (&["application/graphql-response+json, application/json"], Some(Format::Response)),
            (&["application/json, application/graphql-response+json"], Some(Format::Json)),
            (&["application/json;q=0.5, application/graphql-response+json;q=0.9"], Some(Format::Response)),
            (&["application/graphql-response+json;q=0.5, application/json;q=0.9"], Some(Format::Json)),
            (&["application/graphql-response+json, */*;q=0.8"], Some(Format::Response)),
            (&["text/html", "APPLICATION/JSON"], Some(Format::Json)),
            (&["application/json;q=0, */*"], Some(Format::Response)),
            (&["application/json;q=0"], None),
            (&["text/html"], None),
            (&["application/xml, image/*"], None),
            (&["application/json; charset=iso-8859-1"], Some(Format::Json)),
            (&["application/json; charset=iso-8859-1, text/html"], None),
            (&["text/html;q=1, application/graphql-response+json;q=0.001"], Some(Format::Response)),
        ];
        for (values, format) in cases {
            assert_eq!(choose(values), format, "{values:?}");
        }
    }
}

//! The origin of a web page as browsers write it: the scheme, the host and the port, unless that is the scheme's
//! default. Origins are compared byte for byte.

use std::fmt;
use std::str::FromStr;

/// An origin that a tenant may allow. It is never `null` or a pattern, and its scheme is `https`, or `http` for pages
/// on the same machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Origin(String);

impl Origin {
    /// Returns the origin as it stands in the header `Origin`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Accepts only the spelling that browsers send, because any other would never match. The error is a sentence for the
/// operator.
impl FromStr for Origin {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text} is not an origin: scheme and host, as in https://notes.example");
        let url = reqwest::Url::parse(text).map_err(|_| malformed())?;
        if text.contains('*') {
            return Err(format!("{text} is a pattern: name each origin"));
        }
        let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && local) {
            return Err(format!("{text}: only https is allowed, and http for localhost"));
        }
        match url.origin().ascii_serialization() {
            origin if origin == text => Ok(Self(origin)),
            origin if url.path() == "/" && url.query().is_none() && url.fragment().is_none() => {
                Err(format!("write {text} as {origin}"))
            }
            _ => Err(malformed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_browsers_spelling_is_accepted() {
        for good in [
            "https://app.example",
            "https://app.example:8443",
            "http://localhost:5173",
            "https://xn--bcher-kva.example",
            "https://[2001:db8::1]",
        ] {
            assert_eq!(good.parse::<Origin>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "*",
            "null",
            "https://*.example",
            "app.example",
            "http://app.example",
            "file:///x",
            "https://app.example/",
            "https://app.example/x",
            "HTTPS://app.example",
            "https://App.example",
            "https://app.example:443",
            "https://user@app.example",
            "https://app.example?x",
            "https://app.example ",
            "https://b\u{fc}cher.example",
            "chrome-extension://abc",
            "https://a.example, https://b.example",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}

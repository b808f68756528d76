//! Attachments: reads the text of a note from base64 in the charset of its media type. Several attachments of one media
//! type are parts of the text. Attachments of other media types are renditions of the same text: they are described in
//! the source elements and not read.

use super::FhirError;
use super::element::{JsonStr, non_blank};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attachment<'a> {
    #[serde(borrow)]
    content_type: Option<JsonStr<'a>>,
    #[serde(borrow)]
    language: Option<JsonStr<'a>>,
    #[serde(borrow)]
    data: Option<JsonStr<'a>>,
    #[serde(borrow)]
    url: Option<JsonStr<'a>>,
    size: Option<Value>,
    #[serde(borrow)]
    hash: Option<JsonStr<'a>>,
    #[serde(borrow)]
    title: Option<JsonStr<'a>>,
    #[serde(borrow)]
    creation: Option<JsonStr<'a>>,
}

/// The text of a note, with the first title and creation date of its attachments.
#[derive(Debug, PartialEq)]
pub(super) struct Extract {
    pub(super) body: String,
    pub(super) title: Option<String>,
    pub(super) creation: Option<String>,
}

/// Extracts the text of a note, as plain text if there is such an attachment. The error says why there is no text.
pub(super) fn extract_text(attachments: &[&Attachment<'_>]) -> Result<Extract, FhirError> {
    let textual: Vec<&Attachment> = attachments.iter().copied().filter(|attachment| attachment.holds_text()).collect();
    let plain = textual.iter().copied().find(|attachment| attachment.media_type() == PLAIN);
    let Some(first) = plain.or(textual.first().copied()) else { return Err(missing_text_error(attachments)) };
    let mut parts = Vec::new();
    for attachment in textual.iter().filter(|attachment| attachment.media_type() == first.media_type()) {
        let text = attachment.text()?;
        if !text.trim().is_empty() {
            parts.push(text);
        }
    }
    if parts.is_empty() {
        return Err(FhirError::EmptyNote);
    }
    let title = textual.iter().find_map(|attachment| non_blank(&attachment.title));
    let creation = textual.iter().find_map(|attachment| non_blank(&attachment.creation));
    Ok(Extract { body: parts.join("\n\n"), title: title.map(str::to_owned), creation: creation.map(str::to_owned) })
}

/// Returns whether any attachment holds text. It may still be unreadable.
pub(super) fn has_text(attachments: &[&Attachment<'_>]) -> bool {
    attachments.iter().any(|attachment| attachment.holds_text())
}

/// Returns the metadata of each attachment, without the data, for the source elements.
pub(super) fn describe(attachments: &[&Attachment<'_>]) -> Value {
    let metadata = |attachment: &&Attachment| {
        let texts = [
            ("contentType", &attachment.content_type),
            ("language", &attachment.language),
            ("url", &attachment.url),
            ("hash", &attachment.hash),
            ("title", &attachment.title),
            ("creation", &attachment.creation),
        ];
        let mut known: Map<String, Value> =
            texts.into_iter().filter_map(|(name, text)| Some((name.into(), non_blank(text)?.into()))).collect();
        if let Some(size) = &attachment.size {
            known.insert("size".into(), size.clone());
        }
        Value::Object(known)
    };
    Value::Array(attachments.iter().map(metadata).collect())
}

const PLAIN: &str = "text/plain";

impl Attachment<'_> {
    /// Returns the media type in lower case and without parameters. Attachments without one count as plain text.
    fn media_type(&self) -> String {
        let content_type = non_blank(&self.content_type).unwrap_or(PLAIN);
        content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// Returns whether the attachment has data of a `text/…` type. Data without a media type counts if it decodes as
    /// text.
    fn holds_text(&self) -> bool {
        if self.data.as_ref().is_none_or(|data| data.as_str().is_empty()) {
            return false;
        }
        let has_type = non_blank(&self.content_type).is_some();
        if has_type { self.media_type().starts_with("text/") } else { self.text().is_ok() }
    }

    fn text(&self) -> Result<String, FhirError> {
        let data = self.data.as_ref().map(JsonStr::as_str).unwrap_or_default();
        let text = decode_text(decode_base64(data)?, charset(non_blank(&self.content_type).unwrap_or_default()))?;
        if text.contains('\0') { Err(FhirError::NulCharacter) } else { Ok(text) }
    }
}

/// Returns why a note has no text, according to the first attachment that is not empty.
fn missing_text_error(attachments: &[&Attachment<'_>]) -> FhirError {
    let filled = |text: &Option<JsonStr>| text.as_ref().is_some_and(|text| !text.as_str().is_empty());
    match attachments.iter().find(|attachment| filled(&attachment.data) || filled(&attachment.url)) {
        None => FhirError::EmptyNote,
        Some(attachment) if filled(&attachment.data) => FhirError::AttachmentNotText,
        Some(_) => FhirError::AttachmentByReference,
    }
}

/// Decodes standard base64. White space is allowed, because some senders insert line breaks.
fn decode_base64(data: &str) -> Result<Vec<u8>, FhirError> {
    if let Ok(bytes) = STANDARD.decode(data) {
        return Ok(bytes);
    }
    let compact: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if compact.len() == data.len() {
        return Err(FhirError::BadBase64);
    }
    STANDARD.decode(compact).map_err(|_| FhirError::BadBase64)
}

/// Returns the `charset` parameter of a media type in lower case, or `utf-8` if there is none.
fn charset(content_type: &str) -> Cow<'_, str> {
    let parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let charset = parameters
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim().trim_matches('"'))
        .next();
    charset.map_or(Cow::Borrowed("utf-8"), |charset| Cow::Owned(charset.to_ascii_lowercase()))
}

fn decode_text(bytes: Vec<u8>, charset: Cow<'_, str>) -> Result<String, FhirError> {
    match charset.as_ref() {
        "utf-8" | "utf8" | "us-ascii" | "ascii" => {
            let text = String::from_utf8(bytes).map_err(|_| FhirError::NotUtf8)?;
            // A byte order mark is not part of the note.
            Ok(match text.strip_prefix('\u{feff}') {
                Some(rest) => rest.to_owned(),
                None => text,
            })
        }
        // As browsers do, text declared as Latin-1 is read as Windows-1252: the two differ only where Latin-1 has
        // control characters.
        "iso-8859-1" | "iso8859-1" | "latin1" | "windows-1252" | "cp1252" => {
            Ok(bytes.into_iter().map(windows_1252_char).collect())
        }
        _ => Err(FhirError::UnsupportedCharset),
    }
}

fn windows_1252_char(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘',
        '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
    ];
    let high = byte.checked_sub(0x80).and_then(|at| HIGH.get(usize::from(at)));
    high.copied().unwrap_or(char::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(attachments: Value) -> Result<String, FhirError> {
        let text = attachments.to_string();
        let attachments: Vec<Attachment> = serde_json::from_str(&text).unwrap();
        extract_text(&attachments.iter().collect::<Vec<_>>()).map(|extract| extract.body)
    }

    fn base64(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    #[test]
    fn text_is_decoded_in_its_charset() {
        for kind in ["text/plain", "text/plain; charset=utf-8", "TEXT/PLAIN;charset=\"UTF-8\"", "text/html"] {
            assert_eq!(
                run(json!([{ "contentType": kind, "data": base64("37,1 °C".as_bytes()) }])),
                Ok("37,1 °C".into()),
                "{kind}"
            );
        }
        assert_eq!(
            run(json!([{ "contentType": "text/plain; charset=ISO-8859-1", "data": base64(b"37,1 \xb0C \x80") }])),
            Ok("37,1 °C €".into())
        );
        assert_eq!(
            run(json!([{ "contentType": "text/plain; charset=utf-16", "data": base64(b"a\0") }])),
            Err(FhirError::UnsupportedCharset)
        );
        assert_eq!(
            run(json!([{ "contentType": "text/plain", "data": base64(b"37,1 \xb0C") }])),
            Err(FhirError::NotUtf8)
        );
        assert_eq!(run(json!([{ "data": base64(b"unlabelled") }])), Ok("unlabelled".into()));
        assert_eq!(
            run(json!([{ "contentType": "text/plain", "data": base64("\u{feff}x".as_bytes()) }])),
            Ok("x".into())
        );
    }

    #[test]
    fn a_note_without_text_has_the_error_that_says_why() {
        assert_eq!(run(json!([])), Err(FhirError::EmptyNote));
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": "" }])), Err(FhirError::EmptyNote));
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": base64(b" \n") }])), Err(FhirError::EmptyNote));
        assert_eq!(
            run(json!([{ "contentType": "text/plain", "data": base64(b"a\0b") }])),
            Err(FhirError::NulCharacter)
        );
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": "dGV4dA=" }])), Err(FhirError::BadBase64));
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": "no base64!" }])), Err(FhirError::BadBase64));
        assert_eq!(
            run(json!([{ "contentType": "text/plain", "url": "Binary/1" }])),
            Err(FhirError::AttachmentByReference)
        );
        assert_eq!(
            run(json!([{ "contentType": "application/pdf", "data": "JVBERi0=" }])),
            Err(FhirError::AttachmentNotText)
        );
        assert_eq!(run(json!([{ "data": base64(b"\xff\xfe\x00") }])), Err(FhirError::AttachmentNotText));
    }

    #[test]
    fn line_breaks_in_base64_are_accepted() {
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": "dGV4\r\n dA==\n" }])), Ok("text".into()));
    }

    #[test]
    fn parts_are_joined_and_renditions_are_omitted() {
        let plain = |text: &str| json!({ "contentType": "text/plain", "data": base64(text.as_bytes()) });
        assert_eq!(run(json!([plain("one"), plain("two")])), Ok("one\n\ntwo".into()));
        let html = json!({ "contentType": "text/html", "data": base64(b"<p>one</p>") });
        let pdf = json!({ "contentType": "application/pdf", "data": "JVBERi0=" });
        assert_eq!(run(json!([pdf, html, plain("one")])), Ok("one".into()));
        assert_eq!(run(json!([pdf, html])), Ok("<p>one</p>".into()));
        assert_eq!(run(json!([plain("one"), { "contentType": "text/plain", "data": "%" }])), Err(FhirError::BadBase64));
    }
}

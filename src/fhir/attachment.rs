//! Attachments: the text of a note out of base64, media types and charsets.
//! Several attachments of one media type are parts of the text; those of another are renditions of it, named in the provenance and not read.

use super::Defect;
use super::element::{Text, said};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// An attachment as it stands in a resource.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attachment<'a> {
    #[serde(borrow)]
    content_type: Option<Text<'a>>,
    #[serde(borrow)]
    language: Option<Text<'a>>,
    #[serde(borrow)]
    data: Option<Text<'a>>,
    #[serde(borrow)]
    url: Option<Text<'a>>,
    size: Option<Value>,
    #[serde(borrow)]
    hash: Option<Text<'a>>,
    #[serde(borrow)]
    title: Option<Text<'a>>,
    #[serde(borrow)]
    creation: Option<Text<'a>>,
}

/// The text of a note and what its attachments say about it.
#[derive(Debug, PartialEq)]
pub(super) struct Extract {
    pub(super) body: String,
    pub(super) title: Option<String>,
    pub(super) creation: Option<String>,
}

/// The text in these attachments, or why there is none.
pub(super) fn extract(attachments: &[&Attachment<'_>]) -> Result<Extract, Defect> {
    let textual: Vec<&Attachment> = attachments.iter().copied().filter(|attachment| attachment.holds_text()).collect();
    let plain = textual.iter().copied().find(|attachment| attachment.media_type() == PLAIN);
    let Some(first) = plain.or(textual.first().copied()) else { return Err(without_text(attachments)) };
    let mut parts = Vec::new();
    for attachment in textual.iter().filter(|attachment| attachment.media_type() == first.media_type()) {
        let text = attachment.text()?;
        if !text.trim().is_empty() {
            parts.push(text);
        }
    }
    if parts.is_empty() {
        return Err(Defect::EmptyNote);
    }
    let titled = textual.iter().find_map(|attachment| said(&attachment.title));
    let created = textual.iter().find_map(|attachment| said(&attachment.creation));
    Ok(Extract { body: parts.join("\n\n"), title: titled.map(str::to_owned), creation: created.map(str::to_owned) })
}

/// Whether any of them has text in it, readable or not.
pub(super) fn any_text(attachments: &[&Attachment<'_>]) -> bool {
    attachments.iter().any(|attachment| attachment.holds_text())
}

/// What is known of each, without the data.
pub(super) fn described(attachments: &[&Attachment<'_>]) -> Value {
    let one = |attachment: &&Attachment| {
        let texts = [
            ("contentType", &attachment.content_type),
            ("language", &attachment.language),
            ("url", &attachment.url),
            ("hash", &attachment.hash),
            ("title", &attachment.title),
            ("creation", &attachment.creation),
        ];
        let mut known: Map<String, Value> =
            texts.into_iter().filter_map(|(name, text)| Some((name.into(), said(text)?.into()))).collect();
        if let Some(size) = &attachment.size {
            known.insert("size".into(), size.clone());
        }
        Value::Object(known)
    };
    Value::Array(attachments.iter().map(one).collect())
}

const PLAIN: &str = "text/plain";

impl Attachment<'_> {
    /// The media type without parameters. Data that does not say what it is counts as plain text when it reads as such.
    fn media_type(&self) -> String {
        let given = said(&self.content_type).unwrap_or(PLAIN);
        given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    fn holds_text(&self) -> bool {
        if self.data.as_ref().is_none_or(|data| data.as_str().is_empty()) {
            return false;
        }
        let labelled = said(&self.content_type).is_some();
        if labelled { self.media_type().starts_with("text/") } else { self.text().is_ok() }
    }

    fn text(&self) -> Result<String, Defect> {
        let data = self.data.as_ref().map(Text::as_str).unwrap_or_default();
        let text = decoded(unpacked(data)?, charset(said(&self.content_type).unwrap_or_default()))?;
        if text.contains('\0') { Err(Defect::NulCharacter) } else { Ok(text) }
    }
}

/// Why a note has no text: as its first attachment has it.
fn without_text(attachments: &[&Attachment<'_>]) -> Defect {
    let filled = |text: &Option<Text>| text.as_ref().is_some_and(|text| !text.as_str().is_empty());
    match attachments.iter().find(|attachment| filled(&attachment.data) || filled(&attachment.url)) {
        None => Defect::EmptyNote,
        Some(attachment) if filled(&attachment.data) => Defect::AttachmentNotText,
        Some(_) => Defect::AttachmentByReference,
    }
}

/// Base64 by the book, but with the line breaks that some senders put in.
fn unpacked(data: &str) -> Result<Vec<u8>, Defect> {
    if let Ok(bytes) = STANDARD.decode(data) {
        return Ok(bytes);
    }
    let dense: String = data.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    if dense.len() == data.len() {
        return Err(Defect::BadBase64);
    }
    STANDARD.decode(dense).map_err(|_| Defect::BadBase64)
}

/// The `charset` of a media type.
fn charset(content_type: &str) -> Cow<'_, str> {
    let named = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let charset = named
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim().trim_matches('"'))
        .next();
    charset.map_or(Cow::Borrowed("utf-8"), |charset| Cow::Owned(charset.to_ascii_lowercase()))
}

fn decoded(bytes: Vec<u8>, charset: Cow<'_, str>) -> Result<String, Defect> {
    match charset.as_ref() {
        "utf-8" | "utf8" | "us-ascii" | "ascii" => {
            let text = String::from_utf8(bytes).map_err(|_| Defect::NotUtf8)?;
            // A byte order mark is no character of the note.
            Ok(match text.strip_prefix('\u{feff}') {
                Some(rest) => rest.to_owned(),
                None => text,
            })
        }
        // As on the web, what calls itself Latin-1 is read as Windows-1252: the two differ only where Latin-1 has control codes.
        "iso-8859-1" | "iso8859-1" | "latin1" | "windows-1252" | "cp1252" => {
            Ok(bytes.into_iter().map(from_1252).collect())
        }
        _ => Err(Defect::UnsupportedCharset),
    }
}

fn from_1252(byte: u8) -> char {
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

    fn run(attachments: Value) -> Result<String, Defect> {
        let text = attachments.to_string();
        let attachments: Vec<Attachment> = serde_json::from_str(&text).unwrap();
        extract(&attachments.iter().collect::<Vec<_>>()).map(|extract| extract.body)
    }

    fn base64(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    #[test]
    fn texts_in_their_charsets() {
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
            Err(Defect::UnsupportedCharset)
        );
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": base64(b"37,1 \xb0C") }])), Err(Defect::NotUtf8));
        assert_eq!(run(json!([{ "data": base64(b"unlabelled") }])), Ok("unlabelled".into()));
        assert_eq!(
            run(json!([{ "contentType": "text/plain", "data": base64("\u{feff}x".as_bytes()) }])),
            Ok("x".into())
        );
    }

    #[test]
    fn what_has_no_text_says_why() {
        assert_eq!(run(json!([])), Err(Defect::EmptyNote));
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": "" }])), Err(Defect::EmptyNote));
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": base64(b" \n") }])), Err(Defect::EmptyNote));
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": base64(b"a\0b") }])), Err(Defect::NulCharacter));
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": "dGV4dA=" }])), Err(Defect::BadBase64));
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": "no base64!" }])), Err(Defect::BadBase64));
        assert_eq!(
            run(json!([{ "contentType": "text/plain", "url": "Binary/1" }])),
            Err(Defect::AttachmentByReference)
        );
        assert_eq!(
            run(json!([{ "contentType": "application/pdf", "data": "JVBERi0=" }])),
            Err(Defect::AttachmentNotText)
        );
        assert_eq!(run(json!([{ "data": base64(b"\xff\xfe\x00") }])), Err(Defect::AttachmentNotText));
    }

    #[test]
    fn line_breaks_in_base64_are_forgiven() {
        assert_eq!(run(json!([{ "contentType": "text/plain", "data": "dGV4\r\n dA==\n" }])), Ok("text".into()));
    }

    #[test]
    fn parts_are_joined_and_renditions_left_out() {
        let plain = |text: &str| json!({ "contentType": "text/plain", "data": base64(text.as_bytes()) });
        assert_eq!(run(json!([plain("one"), plain("two")])), Ok("one\n\ntwo".into()));
        let html = json!({ "contentType": "text/html", "data": base64(b"<p>one</p>") });
        let pdf = json!({ "contentType": "application/pdf", "data": "JVBERi0=" });
        assert_eq!(run(json!([pdf, html, plain("one")])), Ok("one".into()));
        assert_eq!(run(json!([pdf, html])), Ok("<p>one</p>".into()));
        assert_eq!(run(json!([plain("one"), { "contentType": "text/plain", "data": "%" }])), Err(Defect::BadBase64));
    }
}

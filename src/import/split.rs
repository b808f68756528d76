//! Splits a file into resources, the lines of NDJSON or the entries of a Bundle, as a stream: no file is held in memory
//! as a whole. Only quotes and brackets are examined. Whoever reads a piece checks whether it is JSON and FHIR.

use std::io::{self, BufRead};

/// Maximum length of a line, an entry or a single resource.
pub(super) const MAX_PIECE_BYTES: usize = 64 << 20;
/// Capacity that a buffer keeps between pieces, so that one long piece does not occupy its memory for the rest of the
/// file.
const KEPT_CAPACITY_BYTES: usize = 1 << 20;
/// Maximum length of a key at the top level; of those, only `entry` is of interest.
const MAX_KEY_BYTES: usize = 64;

/// How a file holds its resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// Each line is a resource or a Bundle.
    Lines,
    /// The file is one JSON object: a Bundle or a single resource.
    Object,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A resource, or a Bundle without its entries.
    Resource(&'a [u8]),
    /// An entry of a Bundle.
    Entry(&'a [u8]),
    /// A piece longer than [`MAX_PIECE_BYTES`].
    TooLong,
    /// The position from which the file is malformed or cut short.
    Broken,
    /// The file does not contain a JSON object.
    NoObject,
}

/// Receives each piece with the number of its line or entry, from 1.
pub(super) type PieceVisitor<'v> = dyn FnMut(u64, Piece<'_>) -> io::Result<()> + 'v;

/// Detects the layout: lines if anything but white space follows a first object that contains no line break, or else
/// one object.
pub(super) fn detect_layout(mut input: impl BufRead) -> io::Result<Layout> {
    let mut nesting = Nesting::default();
    let mut begun = false;
    let mut ended = false;
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return Ok(Layout::Object);
        }
        for &byte in bytes {
            if ended && !byte.is_ascii_whitespace() {
                return Ok(Layout::Lines);
            }
            if begun && !ended && byte == b'\n' {
                return Ok(Layout::Object);
            }
            nesting.step(byte);
            begun |= nesting.depth > 0;
            ended |= begun && nesting.depth == 0;
        }
        let read = bytes.len();
        input.consume(read);
    }
}

/// Calls `visitor` with every line that is not blank.
pub(super) fn split_lines(mut input: impl BufRead, visitor: &mut PieceVisitor<'_>) -> io::Result<()> {
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let limit = MAX_PIECE_BYTES as u64 + 1;
        if io::Read::take(&mut input, limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.len() > MAX_PIECE_BYTES && !line.ends_with(b"\n") {
            input.skip_until(b'\n')?;
            visitor(number, Piece::TooLong)?;
            continue;
        }
        let text = without_byte_order_mark(&line).trim_ascii();
        if !text.is_empty() {
            visitor(number, Piece::Resource(text))?;
        }
        line.shrink_to(KEPT_CAPACITY_BYTES);
    }
}

/// Calls `visitor` with the entries of a Bundle, one by one, and then with the Bundle without them; or with a single
/// resource.
pub(super) fn split_object(mut input: impl BufRead, visitor: &mut PieceVisitor<'_>) -> io::Result<()> {
    let mut splitter = ObjectSplitter::default();
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return splitter.finish(visitor);
        }
        splitter.feed(bytes, visitor)?;
        let read = bytes.len();
        input.consume(read);
    }
}

fn without_byte_order_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The depth of brackets outside strings.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    fn step(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// Splits one object: the position in it, and the bytes of the pieces that are not complete yet.
#[derive(Debug, Default)]
struct ObjectSplitter {
    nesting: Nesting,
    /// The object without the entries.
    envelope: PieceBuffer,
    /// The entry that is being read.
    entry: PieceBuffer,
    /// The last string at the top level. It is a key if a colon follows.
    last_string: Vec<u8>,
    /// The key whose value is being read.
    key: Vec<u8>,
    within_entries: bool,
    /// The number of complete entries.
    entries: u64,
    /// Whether something that is not an object was found among the entries, or anything after the end.
    stray: bool,
    begun: bool,
    done: bool,
}

#[derive(Debug, Default)]
struct PieceBuffer {
    bytes: Vec<u8>,
    too_long: bool,
}

impl PieceBuffer {
    fn push(&mut self, byte: u8) {
        if self.bytes.len() < MAX_PIECE_BYTES {
            self.bytes.push(byte);
        } else {
            self.too_long = true;
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() <= MAX_PIECE_BYTES {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.too_long = true;
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_CAPACITY_BYTES);
        self.too_long = false;
    }
}

impl ObjectSplitter {
    fn feed(&mut self, mut bytes: &[u8], visitor: &mut PieceVisitor<'_>) -> io::Result<()> {
        while let Some((&byte, rest)) = bytes.split_first() {
            // Most bytes are in strings, so everything up to the next quote or backslash is taken at once.
            if self.nesting.in_string && !self.nesting.escaped {
                let run = bytes.iter().position(|&byte| byte == b'"' || byte == b'\\').unwrap_or(bytes.len());
                if run > 0 {
                    let (text, rest) = bytes.split_at(run);
                    self.extend(text);
                    bytes = rest;
                    continue;
                }
            }
            self.step(byte, visitor)?;
            bytes = rest;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8, visitor: &mut PieceVisitor<'_>) -> io::Result<()> {
        let (before, was_string) = (self.nesting.depth, self.nesting.in_string);
        self.nesting.step(byte);
        let after = self.nesting.depth;
        if before == 0 && after == 0 {
            // Outside the object, only white space and a byte order mark are allowed.
            self.stray |= !byte.is_ascii_whitespace() && !matches!(byte, 0xef | 0xbb | 0xbf);
            return Ok(());
        }
        self.begun |= before == 0 && byte == b'{';
        if self.done || !self.begun {
            self.stray = true;
            return Ok(());
        }
        if before == 1 && !was_string {
            match byte {
                b'"' => self.last_string.clear(),
                b':' => self.key = std::mem::take(&mut self.last_string),
                b'[' if self.key == b"entry" => self.within_entries = true,
                _ => {}
            }
        }
        if !self.within_entries {
            self.envelope.push(byte);
        } else if before >= 3 || after >= 3 {
            self.entry.push(byte);
        } else if before == 2 && after == 2 {
            self.stray |= !byte.is_ascii_whitespace() && byte != b',';
        } else {
            // The byte opens or closes the list of entries.
            self.envelope.push(byte);
            self.within_entries = after == 2;
        }
        if self.within_entries && before == 3 && after == 2 {
            self.entries += 1;
            visitor(self.entries, if self.entry.too_long { Piece::TooLong } else { Piece::Entry(&self.entry.bytes) })?;
            self.entry.clear();
        }
        self.done = after == 0;
        Ok(())
    }

    /// Adds the content of a string to the piece that is being read.
    fn extend(&mut self, text: &[u8]) {
        if self.within_entries && self.nesting.depth >= 3 {
            self.entry.extend(text);
        } else if !self.within_entries && self.nesting.depth > 0 {
            if self.nesting.depth == 1 && self.last_string.len() + text.len() <= MAX_KEY_BYTES {
                self.last_string.extend_from_slice(text);
            }
            self.envelope.extend(text);
        }
    }

    fn finish(self, visitor: &mut PieceVisitor<'_>) -> io::Result<()> {
        let next = self.entries + 1;
        if !self.begun {
            return visitor(next, Piece::NoObject);
        }
        if !self.done || self.stray {
            return visitor(next, Piece::Broken);
        }
        visitor(1, if self.envelope.too_long { Piece::TooLong } else { Piece::Resource(&self.envelope.bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn split(layout: Layout, text: &str) -> Vec<String> {
        // A buffer of five bytes splits the text at every position of interest.
        let input = BufReader::with_capacity(5, text.as_bytes());
        let mut found = Vec::new();
        let mut visitor = |number, piece: Piece<'_>| {
            found.push(match piece {
                Piece::Resource(bytes) => format!("{number} R {}", String::from_utf8_lossy(bytes)),
                Piece::Entry(bytes) => format!("{number} E {}", String::from_utf8_lossy(bytes)),
                Piece::TooLong => format!("{number} too long"),
                Piece::Broken => format!("{number} broken"),
                Piece::NoObject => format!("{number} no object"),
            });
            Ok(())
        };
        match layout {
            Layout::Lines => split_lines(input, &mut visitor).unwrap(),
            Layout::Object => split_object(input, &mut visitor).unwrap(),
        }
        found
    }

    #[test]
    fn blank_lines_are_skipped_and_the_others_numbered() {
        let found = split(Layout::Lines, "\u{feff}{\"a\":1}\r\n\n  \n{\"b\":2}\n{\"cut");
        assert_eq!(found, ["1 R {\"a\":1}", "4 R {\"b\":2}", "5 R {\"cut"]);
    }

    #[test]
    fn a_bundle_is_split_into_its_entries() {
        let text = "\u{feff} {\"resourceType\" : \"Bundle\", \"entry\" : [ {\"x\":\"}]\\\"\"} ,\n\
                    {\"resource\":{\"entry\":[{}]}}], \"type\":\"batch\"}\n";
        let envelope = "{\"resourceType\" : \"Bundle\", \"entry\" : [], \"type\":\"batch\"}";
        let expected = ["1 E {\"x\":\"}]\\\"\"}", "2 E {\"resource\":{\"entry\":[{}]}}", &format!("1 R {envelope}")];
        assert_eq!(split(Layout::Object, text), expected);
    }

    #[test]
    fn a_single_resource_is_one_piece() {
        let text = "{\n \"resourceType\": \"Patient\", \"a\": {\"entry\": [1]}, \"b\": \"entry\"\n}\n";
        assert_eq!(split(Layout::Object, text), [format!("1 R {}", text.trim())]);
    }

    #[test]
    fn malformed_objects_are_reported_at_their_position() {
        let text = "{\"resourceType\":\"Bundle\",\"entry\":[{\"a\":1},{\"b\":";
        assert_eq!(split(Layout::Object, text), ["1 E {\"a\":1}", "2 broken"]);
        assert_eq!(split(Layout::Object, "{} x"), ["1 broken"]);
        for text in ["", "no JSON", "[1]", "<ClinicalDocument/>"] {
            assert_eq!(split(Layout::Object, text), ["1 no object"], "{text}");
        }
        assert_eq!(split(Layout::Object, "{\"entry\":[1,\"a\"]}"), ["1 broken"]);
    }

    #[test]
    fn a_line_that_is_too_long_does_not_affect_the_next() {
        let text = format!("{{\"a\":\"{}\"}}\n{{\"b\":2}}\n", "x".repeat(MAX_PIECE_BYTES));
        let mut found = Vec::new();
        split_lines(BufReader::new(text.as_bytes()), &mut |number, piece| {
            found.push((number, piece == Piece::TooLong));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [(1, true), (2, false)]);
    }

    #[test]
    fn layouts_are_detected() {
        let found = |text: &str| detect_layout(BufReader::with_capacity(5, text.as_bytes())).unwrap();
        assert_eq!(found("{\"a\":1}\n{\"b\":2}\n"), Layout::Lines);
        assert_eq!(found("\u{feff}{\"a\":1}\r\n\r\n{\"b\":2}"), Layout::Lines);
        assert_eq!(found("{\"a\":1}\n"), Layout::Object);
        assert_eq!(found("{\n\"a\":1\n}\n"), Layout::Object);
        assert_eq!(found(""), Layout::Object);
    }
}

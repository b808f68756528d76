//! Resources out of bytes: lines of NDJSON, or the entries of a Bundle as they stream by, so that no file is ever held whole.
//! Looks at quotes and brackets only; whether a piece is JSON, let alone FHIR, is for the reader of the piece to find out.

use std::io::{self, BufRead};

/// Longest line, entry or single resource.
pub(super) const LONGEST: usize = 64 << 20;

/// How a file holds its resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One resource (or Bundle) a line.
    Lines,
    /// One JSON object: a Bundle or a single resource.
    Object,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A resource; of a Bundle, what is around its entries.
    Resource(&'a [u8]),
    /// An entry of a Bundle.
    Entry(&'a [u8]),
    /// A piece longer than [`LONGEST`].
    TooLong,
    /// Where the file stops making sense, or ends too early.
    Broken,
    /// All of the file: not one JSON object is in it.
    NoObject,
}

/// Where pieces go, each with its number: of the line, or of the entry, from 1.
pub(super) type Sink<'s> = dyn FnMut(u64, Piece<'_>) -> io::Result<()> + 's;

/// Several objects one after another are lines; so is a first line that is whole. Everything else is one object.
pub(super) fn layout(mut input: impl BufRead) -> io::Result<Layout> {
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

/// Every line that is not blank.
pub(super) fn lines(mut input: impl BufRead, sink: &mut Sink<'_>) -> io::Result<()> {
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        number += 1;
        let limit = LONGEST as u64 + 1;
        if io::Read::take(&mut input, limit).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.len() > LONGEST && !line.ends_with(b"\n") {
            input.skip_until(b'\n')?;
            sink(number, Piece::TooLong)?;
            continue;
        }
        let text = without_mark(&line).trim_ascii();
        if !text.is_empty() {
            sink(number, Piece::Resource(text))?;
        }
        // One long line must not cost its memory for the rest of the file.
        line.shrink_to(1 << 20);
    }
}

/// The entries of a Bundle one by one, then what was around them; or a single resource.
pub(super) fn object(mut input: impl BufRead, sink: &mut Sink<'_>) -> io::Result<()> {
    let mut scan = Scan::default();
    loop {
        let bytes = input.fill_buf()?;
        if bytes.is_empty() {
            return scan.finish(sink);
        }
        scan.feed(bytes, sink)?;
        let read = bytes.len();
        input.consume(read);
    }
}

/// The text behind a byte order mark.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Depth of brackets, strings left out.
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

/// A pass over one object: where it is, and the bytes of what it is in.
#[derive(Debug, Default)]
struct Scan {
    nesting: Nesting,
    /// All but the entries.
    around: Collected,
    /// The entry being read.
    entry: Collected,
    /// The last string at the top level: a key when a colon follows.
    word: Vec<u8>,
    /// The key whose value is being read.
    key: Vec<u8>,
    within_entries: bool,
    entries: u64,
    /// Something that is not an object stood among the entries, or after the end.
    stray: bool,
    begun: bool,
    done: bool,
}

#[derive(Debug, Default)]
struct Collected {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Collected {
    fn push(&mut self, byte: u8) {
        if self.bytes.len() < LONGEST {
            self.bytes.push(byte);
        } else {
            self.too_long = true;
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() <= LONGEST {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.too_long = true;
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(1 << 20);
        self.too_long = false;
    }
}

impl Scan {
    fn feed(&mut self, mut bytes: &[u8], sink: &mut Sink<'_>) -> io::Result<()> {
        while let Some((&byte, rest)) = bytes.split_first() {
            // Most bytes stand in strings: take all up to the next quote or backslash at once.
            if self.nesting.in_string && !self.nesting.escaped {
                let run = bytes.iter().position(|&byte| byte == b'"' || byte == b'\\').unwrap_or(bytes.len());
                if run > 0 {
                    let (text, rest) = bytes.split_at(run);
                    self.take(text);
                    bytes = rest;
                    continue;
                }
            }
            self.step(byte, sink)?;
            bytes = rest;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8, sink: &mut Sink<'_>) -> io::Result<()> {
        let (before, was_string) = (self.nesting.depth, self.nesting.in_string);
        self.nesting.step(byte);
        let after = self.nesting.depth;
        if before == 0 && after == 0 {
            // Around the object: white space, a byte order mark, or nothing that belongs there.
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
                b'"' => self.word.clear(),
                b':' => self.key = std::mem::take(&mut self.word),
                b'[' if self.key == b"entry" => self.within_entries = true,
                _ => {}
            }
        }
        if !self.within_entries {
            self.around.push(byte);
        } else if before >= 3 || after >= 3 {
            self.entry.push(byte);
        } else if before == 2 && after == 2 {
            self.stray |= !byte.is_ascii_whitespace() && byte != b',';
        } else {
            // The bracket that opens the entries, or the one that closes them.
            self.around.push(byte);
            self.within_entries = after == 2;
        }
        if self.within_entries && before == 3 && after == 2 {
            self.entries += 1;
            sink(self.entries, if self.entry.too_long { Piece::TooLong } else { Piece::Entry(&self.entry.bytes) })?;
            self.entry.clear();
        }
        self.done = after == 0;
        Ok(())
    }

    /// Text of a string.
    fn take(&mut self, text: &[u8]) {
        if self.within_entries && self.nesting.depth >= 3 {
            self.entry.extend(text);
        } else if !self.within_entries && self.nesting.depth > 0 {
            if self.nesting.depth == 1 && self.word.len() + text.len() <= 64 {
                self.word.extend_from_slice(text);
            }
            self.around.extend(text);
        }
    }

    fn finish(self, sink: &mut Sink<'_>) -> io::Result<()> {
        let next = self.entries + 1;
        if !self.begun {
            return sink(next, Piece::NoObject);
        }
        if !self.done || self.stray {
            return sink(next, Piece::Broken);
        }
        sink(1, if self.around.too_long { Piece::TooLong } else { Piece::Resource(&self.around.bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn split(layout: Layout, text: &str) -> Vec<String> {
        // A buffer of five bytes puts a border everywhere.
        let input = BufReader::with_capacity(5, text.as_bytes());
        let mut found = Vec::new();
        let mut sink = |number, piece: Piece<'_>| {
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
            Layout::Lines => lines(input, &mut sink).unwrap(),
            Layout::Object => object(input, &mut sink).unwrap(),
        }
        found
    }

    #[test]
    fn lines_of_all_sorts() {
        let found = split(Layout::Lines, "\u{feff}{\"a\":1}\r\n\n  \n{\"b\":2}\n{\"cut");
        assert_eq!(found, ["1 R {\"a\":1}", "4 R {\"b\":2}", "5 R {\"cut"]);
    }

    #[test]
    fn entries_stream_out_of_a_bundle() {
        let text = "\u{feff} {\"resourceType\" : \"Bundle\", \"entry\" : [ {\"x\":\"}]\\\"\"} ,\n{\"resource\":{\"entry\":[{}]}}], \"type\":\"batch\"}\n";
        let around = "{\"resourceType\" : \"Bundle\", \"entry\" : [], \"type\":\"batch\"}";
        let expected = ["1 E {\"x\":\"}]\\\"\"}", "2 E {\"resource\":{\"entry\":[{}]}}", &format!("1 R {around}")];
        assert_eq!(split(Layout::Object, text), expected);
    }

    #[test]
    fn a_single_resource_comes_out_whole() {
        let text = "{\n \"resourceType\": \"Patient\", \"a\": {\"entry\": [1]}, \"b\": \"entry\"\n}\n";
        assert_eq!(split(Layout::Object, text), [format!("1 R {}", text.trim())]);
    }

    #[test]
    fn what_is_cut_short_is_told_where() {
        let text = "{\"resourceType\":\"Bundle\",\"entry\":[{\"a\":1},{\"b\":";
        assert_eq!(split(Layout::Object, text), ["1 E {\"a\":1}", "2 broken"]);
        assert_eq!(split(Layout::Object, "{} x"), ["1 broken"]);
        for text in ["", "no JSON", "[1]", "<ClinicalDocument/>"] {
            assert_eq!(split(Layout::Object, text), ["1 no object"], "{text}");
        }
        assert_eq!(split(Layout::Object, "{\"entry\":[1,\"a\"]}"), ["1 broken"]);
    }

    #[test]
    fn a_line_too_long_does_not_stop_the_next() {
        let text = format!("{{\"a\":\"{}\"}}\n{{\"b\":2}}\n", "x".repeat(LONGEST));
        let mut found = Vec::new();
        lines(BufReader::new(text.as_bytes()), &mut |number, piece| {
            found.push((number, piece == Piece::TooLong));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [(1, true), (2, false)]);
    }

    #[test]
    fn layouts_are_told_apart() {
        let found = |text: &str| layout(BufReader::with_capacity(5, text.as_bytes())).unwrap();
        assert_eq!(found("{\"a\":1}\n{\"b\":2}\n"), Layout::Lines);
        assert_eq!(found("\u{feff}{\"a\":1}\r\n\r\n{\"b\":2}"), Layout::Lines);
        assert_eq!(found("{\"a\":1}\n"), Layout::Object);
        assert_eq!(found("{\n\"a\":1\n}\n"), Layout::Object);
        assert_eq!(found(""), Layout::Object);
    }
}

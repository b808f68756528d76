//! The files of an import: which ones are meant, and the resources in them one after another.
//! A file may be read any number of times; standard input is spooled first.

use super::rejects::Reason;
use super::split::{self, Layout, Piece};
use super::spool::Spool;
use crate::fhir::{Defect, Entry, Method, type_name};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An input that cannot be read, found out before anything is written.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It is not there, or not ours to read.
    #[error("{path}: {cause}")]
    Unreadable {
        /// As it was named.
        path: String,
        /// What the system says.
        cause: io::Error,
    },
    /// A directory without a `.json` or `.ndjson` file.
    #[error("{path}: no .json or .ndjson file in it")]
    Empty {
        /// As it was named.
        path: String,
    },
}

/// One file.
pub(super) struct Input {
    /// As it was named; `-` is standard input.
    pub(super) name: Arc<str>,
    bytes: Bytes,
}

enum Bytes {
    File(PathBuf),
    Spool(Spool),
}

/// One resource of a file, or what stands in the place of one.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Line, or place among the entries.
    pub(super) line: u64,
    /// Whether it stood in an entry of a Bundle.
    pub(super) in_bundle: bool,
    pub(super) what: What<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum What<'a> {
    /// A resource, unread, and the address its Bundle gives it.
    Resource { text: &'a str, address: Option<&'a str> },
    /// The wish to delete the resource at this address.
    Deletion { target: Option<&'a str> },
    /// Nothing that could be read.
    Nothing(Reason),
}

type Visitor<'v> = dyn FnMut(Seen<'_>) -> io::Result<()> + 'v;

/// The files meant by these paths: files as they are, directories by the `.json` and `.ndjson` files below them, `-` standard input.
pub(super) fn open(paths: &[PathBuf]) -> Result<Vec<Input>, InputError> {
    let mut inputs = Vec::new();
    for path in paths {
        let named = |cause| InputError::Unreadable { path: path.display().to_string(), cause };
        if path.as_os_str() == "-" {
            let spool = Spool::fill(io::stdin().lock()).map_err(named)?;
            inputs.push(Input { name: "-".into(), bytes: Bytes::Spool(spool) });
        } else if std::fs::metadata(path).map_err(named)?.is_dir() {
            let before = inputs.len();
            walk(path, &mut inputs).map_err(named)?;
            if inputs.len() == before {
                return Err(InputError::Empty { path: path.display().to_string() });
            }
        } else {
            File::open(path).map_err(named)?;
            inputs.push(Input::file(path.clone()));
        }
    }
    Ok(inputs)
}

/// Files below a directory, in the order of their names; links to directories are not followed, hidden files not read.
fn walk(directory: &Path, inputs: &mut Vec<Input>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&path, inputs)?;
        } else if path.extension().is_some_and(|extension| extension == "json" || extension == "ndjson")
            && path.is_file()
        {
            File::open(&path)?;
            inputs.push(Input::file(path));
        }
    }
    Ok(())
}

impl Input {
    fn file(path: PathBuf) -> Self {
        Self { name: path.display().to_string().into(), bytes: Bytes::File(path) }
    }

    #[cfg(test)]
    pub(super) fn spooled(bytes: &[u8]) -> Self {
        Self { name: "-".into(), bytes: Bytes::Spool(Spool::fill(bytes).unwrap()) }
    }

    fn read(&self) -> io::Result<Box<dyn BufRead + '_>> {
        const BUFFER: usize = 256 << 10;
        Ok(match &self.bytes {
            Bytes::File(path) => Box::new(BufReader::with_capacity(BUFFER, File::open(path)?)),
            Bytes::Spool(spool) => Box::new(BufReader::with_capacity(BUFFER, spool.read())),
        })
    }

    /// By its name where that is `.ndjson`, else by its content.
    pub(super) fn layout(&self) -> io::Result<Layout> {
        match &self.bytes {
            Bytes::File(path) if path.extension().is_some_and(|extension| extension == "ndjson") => Ok(Layout::Lines),
            _ => split::layout(self.read()?),
        }
    }

    /// Shows every resource of the file to `visitor`.
    pub(super) fn visit(&self, layout: Layout, visitor: &mut Visitor<'_>) -> io::Result<()> {
        match layout {
            Layout::Object => split::object(self.read()?, &mut |number, piece| show(number, piece, visitor)),
            Layout::Lines => split::lines(self.read()?, &mut |line, piece| match piece {
                Piece::Resource(bytes) if is_bundle(bytes) => {
                    split::object(bytes, &mut |_, piece| show(line, piece, visitor))
                }
                piece => show(line, piece, visitor),
            }),
        }
    }
}

fn is_bundle(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| type_name(text).as_deref() == Some("Bundle"))
}

fn show(line: u64, piece: Piece<'_>, visitor: &mut Visitor<'_>) -> io::Result<()> {
    let (bytes, in_bundle) = match piece {
        Piece::Resource(bytes) => (bytes, false),
        Piece::Entry(bytes) => (bytes, true),
        Piece::TooLong => return visitor(Seen { line, in_bundle: false, what: What::Nothing(Reason::TooLarge) }),
        Piece::NoObject => {
            return visitor(Seen { line, in_bundle: false, what: What::Nothing(Defect::NotFhir.into()) });
        }
        Piece::Broken => {
            return visitor(Seen { line, in_bundle: false, what: What::Nothing(Defect::MalformedJson.into()) });
        }
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return visitor(Seen { line, in_bundle, what: What::Nothing(Defect::InvalidUtf8.into()) });
    };
    if !in_bundle {
        return visitor(Seen { line, in_bundle, what: What::Resource { text, address: None } });
    }
    match Entry::read(text) {
        Err(defect) => visitor(Seen { line, in_bundle, what: What::Nothing(defect.into()) }),
        Ok(Entry { method: Method::Delete, full_url, target, .. }) => {
            visitor(Seen { line, in_bundle, what: What::Deletion { target: target.or(full_url).as_deref() } })
        }
        Ok(entry) => match entry.resource {
            Some(text) => visitor(Seen { line, in_bundle, what: What::Resource { text, address: entry.address() } }),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_read_in_order_and_only_what_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["c.ndjson", "a.json", "b/d.json", "notes.txt", ".hidden.json"] {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        let inputs = open(&[dir.path().to_owned()]).unwrap();
        let names: Vec<_> =
            inputs.iter().map(|input| input.name.strip_prefix(dir.path().to_str().unwrap()).unwrap()).collect();
        assert_eq!(names, ["/a.json", "/b/d.json", "/c.ndjson"]);
        let absent = dir.path().join("absent.json");
        assert!(matches!(open(&[absent]), Err(InputError::Unreadable { .. })));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(open(&[empty.path().to_owned()]), Err(InputError::Empty { .. })));
    }
}

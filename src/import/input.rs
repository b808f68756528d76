//! The files of an import, and the resources in them one after another.
//! A file can be read any number of times. Standard input is spooled first.

use super::rejects::Reason;
use super::split::{self, Layout, Piece};
use super::spool::Spool;
use crate::fhir::{BundleEntry, EntryMethod, FhirError, type_name};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An input that cannot be read. It is reported before anything is stored.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file or directory does not exist or cannot be read.
    #[error("{path}: {cause}")]
    Unreadable {
        /// The path as the caller gave it.
        path: String,
        /// The error of the operating system.
        cause: io::Error,
    },
    /// The directory contains no `.json` or `.ndjson` file.
    #[error("{path}: no .json or .ndjson file in it")]
    Empty {
        /// The path as the caller gave it.
        path: String,
    },
}

/// A file or standard input.
pub(super) struct Input {
    /// The path of the file, or `-` for standard input.
    pub(super) name: Arc<str>,
    data: InputData,
}

enum InputData {
    File(PathBuf),
    Spool(Spool),
}

/// A line of a file or an entry of a Bundle.
#[derive(Clone, Copy)]
pub(super) struct InputItem<'a> {
    /// The number of the line, or of the entry in its Bundle, from 1.
    pub(super) line: u64,
    /// Whether the item is an entry of a Bundle.
    pub(super) in_bundle: bool,
    pub(super) content: ItemContent<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum ItemContent<'a> {
    /// A resource as JSON text, and its address within its Bundle.
    Resource { text: &'a str, address: Option<&'a str> },
    /// A request to delete the resource at this address.
    Deletion { target: Option<&'a str> },
    /// Content that cannot be read.
    Unreadable(Reason),
}

type Visitor<'v> = dyn FnMut(InputItem<'_>) -> io::Result<()> + 'v;

/// Opens the inputs that paths name: a file, all `.json` and `.ndjson` files below a directory, or standard input for
/// `-`.
pub(super) fn open(paths: &[PathBuf]) -> Result<Vec<Input>, InputError> {
    let mut inputs = Vec::new();
    for path in paths {
        let unreadable = |cause| InputError::Unreadable { path: path.display().to_string(), cause };
        if path.as_os_str() == "-" {
            let spool = Spool::fill(io::stdin().lock()).map_err(unreadable)?;
            inputs.push(Input { name: "-".into(), data: InputData::Spool(spool) });
        } else if std::fs::metadata(path).map_err(unreadable)?.is_dir() {
            let before = inputs.len();
            add_directory(path, &mut inputs).map_err(unreadable)?;
            if inputs.len() == before {
                return Err(InputError::Empty { path: path.display().to_string() });
            }
        } else {
            File::open(path).map_err(unreadable)?;
            inputs.push(Input::file(path.clone()));
        }
    }
    Ok(inputs)
}

/// Adds the files below a directory in the order of their names. Links to directories and hidden files are ignored.
fn add_directory(directory: &Path, inputs: &mut Vec<Input>) -> io::Result<()> {
    let mut entries = std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            add_directory(&path, inputs)?;
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
        Self { name: path.display().to_string().into(), data: InputData::File(path) }
    }

    #[cfg(test)]
    pub(super) fn spooled(bytes: &[u8]) -> Self {
        Self { name: "-".into(), data: InputData::Spool(Spool::fill(bytes).unwrap()) }
    }

    fn read(&self) -> io::Result<Box<dyn BufRead + '_>> {
        const BUFFER_BYTES: usize = 256 << 10;
        Ok(match &self.data {
            InputData::File(path) => Box::new(BufReader::with_capacity(BUFFER_BYTES, File::open(path)?)),
            InputData::Spool(spool) => Box::new(BufReader::with_capacity(BUFFER_BYTES, spool.read())),
        })
    }

    /// Returns the layout of the file: lines if its name ends in `.ndjson`, or else the layout that its content has.
    pub(super) fn layout(&self) -> io::Result<Layout> {
        match &self.data {
            InputData::File(path) if path.extension().is_some_and(|extension| extension == "ndjson") => {
                Ok(Layout::Lines)
            }
            _ => split::detect_layout(self.read()?),
        }
    }

    /// Calls `visitor` with every item of the file, in order.
    pub(super) fn visit(&self, layout: Layout, visitor: &mut Visitor<'_>) -> io::Result<()> {
        match layout {
            Layout::Object => {
                split::split_object(self.read()?, &mut |number, piece| visit_piece(number, piece, visitor))
            }
            Layout::Lines => split::split_lines(self.read()?, &mut |line, piece| match piece {
                Piece::Resource(bytes) if is_bundle(bytes) => {
                    split::split_object(bytes, &mut |_, piece| visit_piece(line, piece, visitor))
                }
                piece => visit_piece(line, piece, visitor),
            }),
        }
    }
}

fn is_bundle(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| type_name(text).as_deref() == Some("Bundle"))
}

fn visit_piece(line: u64, piece: Piece<'_>, visitor: &mut Visitor<'_>) -> io::Result<()> {
    let mut visit = |in_bundle, content| visitor(InputItem { line, in_bundle, content });
    let (bytes, in_bundle) = match piece {
        Piece::Resource(bytes) => (bytes, false),
        Piece::Entry(bytes) => (bytes, true),
        Piece::TooLong => return visit(false, ItemContent::Unreadable(Reason::TooLarge)),
        Piece::NoObject => return visit(false, ItemContent::Unreadable(FhirError::NotFhir.into())),
        Piece::Broken => return visit(false, ItemContent::Unreadable(FhirError::MalformedJson.into())),
    };
    let Ok(text) = std::str::from_utf8(bytes) else {
        return visit(in_bundle, ItemContent::Unreadable(FhirError::InvalidUtf8.into()));
    };
    if !in_bundle {
        return visit(in_bundle, ItemContent::Resource { text, address: None });
    }
    match BundleEntry::read(text) {
        Err(error) => visit(in_bundle, ItemContent::Unreadable(error.into())),
        Ok(BundleEntry { method: EntryMethod::Delete, full_url, target, .. }) => {
            visit(in_bundle, ItemContent::Deletion { target: target.or(full_url).as_deref() })
        }
        Ok(entry) => match entry.resource {
            Some(text) => visit(in_bundle, ItemContent::Resource { text, address: entry.address() }),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_read_in_order_without_hidden_and_other_files() {
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

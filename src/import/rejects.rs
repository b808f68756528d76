//! Rejects: what an import could not take, where it stood and why.
//! Never holds content. Ids may be medical record numbers: they go into this file, which only its owner can read, and into no log.

use crate::fhir::Defect;
use serde::{Serialize, Serializer};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// Why something was not taken. Stable codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The resource itself is at fault.
    Defect(Defect),
    /// Longer than 64 MiB.
    TooLarge,
    /// The file cannot be read (to its end).
    Unreadable,
    /// A deletion: clinical rows are never deleted.
    DeleteNotSupported,
    /// Sound by itself, but there is no place for it among the tenant's rows: `patient_not_found`, `duplicate_identifier`, …; or it would
    /// undo what was changed here since the last import: `changed_here`.
    NoPlace(&'static str),
}

impl Reason {
    /// The code that stands in the file of rejects.
    pub fn code(self) -> &'static str {
        match self {
            Self::Defect(defect) => defect.code(),
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::DeleteNotSupported => "delete_not_supported",
            Self::NoPlace(code) => code,
        }
    }
}

impl From<Defect> for Reason {
    fn from(defect: Defect) -> Self {
        Self::Defect(defect)
    }
}

/// One line of the file of rejects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reject {
    /// The file as it was named, or `-`.
    #[serde(serialize_with = "as_text")]
    pub source: Arc<str>,
    /// The line, or the place among a Bundle's entries, from 1; none for a whole file.
    pub line: Option<u64>,
    /// Its type, where that could be seen.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Its id in the source, where that could be seen.
    pub id: Option<String>,
    /// Why.
    #[serde(serialize_with = "as_code")]
    pub reason: Reason,
}

/// The file of rejects.
pub struct Rejects(BufWriter<File>);

impl Rejects {
    /// Starts an empty file; one that is there becomes its owner's alone.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        // A terminal or a pipe is not ours to close to others.
        if file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(Self(BufWriter::new(file)))
    }

    /// Adds a line.
    pub fn add(&mut self, reject: &Reject) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, reject)?;
        self.0.write_all(b"\n")
    }

    /// Writes out what is still held back.
    pub fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn as_text<S: Serializer>(source: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(source)
}

fn as_code<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_reject_for_the_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejects.ndjson");
        std::fs::write(&path, "of an earlier run").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mut rejects = Rejects::create(&path).unwrap();
        let reject = Reject {
            source: "a.json".into(),
            line: Some(3),
            type_name: Some("Patient".into()),
            id: None,
            reason: Defect::NoId.into(),
        };
        rejects.add(&reject).unwrap();
        rejects.add(&Reject { line: None, type_name: None, reason: Reason::Unreadable, ..reject }).unwrap();
        rejects.finish().unwrap();
        let expected = "{\"source\":\"a.json\",\"line\":3,\"type\":\"Patient\",\"id\":null,\"reason\":\"no_id\"}\n\
                        {\"source\":\"a.json\",\"line\":null,\"type\":null,\"id\":null,\"reason\":\"unreadable\"}\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

//! Rejects: resources that an import did not store, with their position in the input and the reason.
//! A reject never holds content. Ids may be medical record numbers, so they are written to this file, which only its
//! owner can read, and to no log.

use crate::fhir::FhirError;
use serde::{Serialize, Serializer};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// Why something was not stored. The codes are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The resource cannot be read.
    Fhir(FhirError),
    /// The line, entry or single resource is longer than 64 MiB.
    TooLarge,
    /// The file cannot be read to its end.
    Unreadable,
    /// The entry requests a deletion. Clinical rows are never deleted.
    DeleteNotSupported,
    /// The resource is valid but conflicts with the tenant's rows (`patient_not_found`, `duplicate_identifier`, …), or
    /// storing it would revert a change that was made in Cordon since the last import (`changed_here`).
    Conflict(&'static str),
}

impl Reason {
    /// Returns the code that the file of rejects shows.
    pub fn code(self) -> &'static str {
        match self {
            Self::Fhir(error) => error.code(),
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::DeleteNotSupported => "delete_not_supported",
            Self::Conflict(code) => code,
        }
    }
}

impl From<FhirError> for Reason {
    fn from(error: FhirError) -> Self {
        Self::Fhir(error)
    }
}

/// One line of the file of rejects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reject {
    /// The path of the file as the caller gave it, or `-` for standard input.
    #[serde(serialize_with = "as_text")]
    pub source: Arc<str>,
    /// The number of the line, or of the entry in its Bundle, from 1; `None` for a whole file.
    pub line: Option<u64>,
    /// The `resourceType`, if it could be read.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// The id in the source, if it could be read.
    pub id: Option<String>,
    /// The reason.
    #[serde(serialize_with = "as_code")]
    pub reason: Reason,
}

/// The file of rejects, in NDJSON.
pub struct RejectFile(BufWriter<File>);

impl RejectFile {
    /// Creates the file, or empties an existing one. Only its owner can read and write it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        // The permissions of a terminal or a pipe are not changed.
        if file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(Self(BufWriter::new(file)))
    }

    /// Appends a line. It may stay in a buffer until `finish`.
    pub fn add(&mut self, reject: &Reject) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, reject)?;
        self.0.write_all(b"\n")
    }

    /// Writes the buffered lines to the file.
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
    fn each_reject_is_one_line_of_a_file_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rejects.ndjson");
        std::fs::write(&path, "of an earlier run").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let mut rejects = RejectFile::create(&path).unwrap();
        let reject = Reject {
            source: "a.json".into(),
            line: Some(3),
            type_name: Some("Patient".into()),
            id: None,
            reason: FhirError::NoId.into(),
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

//! Specialities of the house: who writes which kind of note.

/// A speciality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speciality {
    Medicine,
    Cardiology,
    Paediatrics,
    Oncology,
    Psychiatry,
    Surgery,
    Obstetrics,
    Dermatology,
    Neurology,
    Orthopaedics,
    Emergency,
    Radiology,
    Pathology,
    Nursing,
}

impl Speciality {
    /// All of them, as staff is counted.
    pub(super) const ALL: [Self; 14] = [
        Self::Medicine,
        Self::Cardiology,
        Self::Paediatrics,
        Self::Oncology,
        Self::Psychiatry,
        Self::Surgery,
        Self::Obstetrics,
        Self::Dermatology,
        Self::Neurology,
        Self::Orthopaedics,
        Self::Emergency,
        Self::Radiology,
        Self::Pathology,
        Self::Nursing,
    ];

    /// Its name for people and in the banks.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Medicine => "medicine",
            Self::Cardiology => "cardiology",
            Self::Paediatrics => "paediatrics",
            Self::Oncology => "oncology",
            Self::Psychiatry => "psychiatry",
            Self::Surgery => "surgery",
            Self::Obstetrics => "obstetrics",
            Self::Dermatology => "dermatology",
            Self::Neurology => "neurology",
            Self::Orthopaedics => "orthopaedics",
            Self::Emergency => "emergency",
            Self::Radiology => "radiology",
            Self::Pathology => "pathology",
            Self::Nursing => "nursing",
        }
    }

    /// By its name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Who writes a note of this kind about a problem of this speciality.
    pub(super) fn writes(self, code: &str) -> Self {
        match code {
            "34111-5" => Self::Emergency,
            "18748-4" => Self::Radiology,
            "11502-2" | "11526-1" => Self::Pathology,
            "34746-8" => Self::Nursing,
            _ => self,
        }
    }
}

//! The specialities of the staff, and which of them writes which type of note.

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
    /// All specialities, in the order in which staff members are numbered.
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

    /// Returns the name, which charts show and `texts/` uses.
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

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|speciality| speciality.name() == name)
    }

    /// Returns the speciality that writes notes of this LOINC type about a problem of this speciality.
    pub(super) fn author_of(self, code: &str) -> Self {
        match code {
            "34111-5" => Self::Emergency,
            "18748-4" => Self::Radiology,
            "11502-2" | "11526-1" => Self::Pathology,
            "34746-8" => Self::Nursing,
            _ => self,
        }
    }
}

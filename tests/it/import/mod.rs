//! Imports of FHIR into tenants of the three tenancy models: which rows are stored, which resources are rejected, and
//! what is reported.

mod edge_cases;
mod identity;
mod interrupted;
mod local_changes;
mod provenance;
mod references;
mod reimport;

//! Cordon: clinical notes for many healthcare organisations, each behind its own cordon.
pub mod config;
pub mod error;
pub mod ids;

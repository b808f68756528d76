//! Cordon: clinical notes for many healthcare organisations, each behind its own cordon.

pub mod app;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod db;
pub mod error;
pub mod fhir;
pub mod graphql;
pub mod guard;
pub mod http;
pub mod ids;
pub mod model;
pub mod ops;
pub mod tenant;

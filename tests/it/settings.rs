//! Settings that stop a command before it does anything, through the binary; no database is asked.

use crate::run_dir;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An empty directory to work in.
fn desk(name: &str) -> PathBuf {
    let directory = run_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// `cordon serve` without a catalog: it always ends by 2, and what it said tells how far it came.
fn serve(desk: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
    command.current_dir(desk).arg("serve").args(arguments).stdin(Stdio::null());
    command
        .env("CORDON__HTTP__BIND", "127.0.0.1:0")
        .env("CORDON__TELEMETRY__BIND", "127.0.0.1:0")
        .envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{said}");
    said
}

/// What it says when nothing is wrong with the settings that are there.
const NO_CATALOG: &str = "catalog.url is not set";

#[test]
fn what_config_and_profile_name_must_be_there() {
    let desk = desk("settings-named");
    std::fs::create_dir_all(desk.join("settings")).unwrap();
    assert!(serve(&desk, &["--config", "nowhere"], &[]).contains("--config nowhere: there is no such directory"));
    assert!(
        serve(&desk, &["--profile", "production"], &[])
            .contains("--profile production: there is no config/production.yaml")
    );
    let said = serve(&desk, &["--config", "settings", "--profile", "production"], &[]);
    assert!(said.contains("there is no settings/production.yaml"), "{said}");
    std::fs::write(desk.join("settings/production.yaml"), "{}").unwrap();
    let said = serve(&desk, &["--config", "settings", "--profile", "production"], &[]);
    assert!(said.contains(NO_CATALOG) && said.contains("nobody can log in"), "{said}");
}

#[test]
fn profile_dev_is_built_in_and_a_file_replaces_it() {
    let desk = desk("settings-dev");
    std::fs::create_dir_all(desk.join("config")).unwrap();
    let said = serve(&desk, &["--profile", "dev"], &[]);
    assert!(said.contains(NO_CATALOG) && !said.contains("nobody can log in"), "it has an issuer: {said}");
    std::fs::write(desk.join("config/dev.yaml"), "{}").unwrap();
    let said = serve(&desk, &["--profile", "dev"], &[]);
    assert!(said.contains(NO_CATALOG) && said.contains("nobody can log in"), "{said}");
}

#[test]
fn values_that_nobody_can_mean_stop_the_start() {
    let desk = desk("settings-values");
    let refused = [
        ("CORDON__HTTP__REQUEST_TIMEOUT_MS", "0", "http.request_timeout_ms must be more than 0"),
        ("CORDON__LIMITS__BODY_BYTES", "0", "limits.body_bytes must be more than 0"),
        ("CORDON__LIMITS__DEPTH", "0", "limits.depth must be more than 0"),
        ("CORDON__LIMITS__COMPLEXITY", "0", "limits.complexity must be more than 0"),
        ("CORDON__LIMITS__TOKENS", "0", "limits.tokens must be more than 0"),
        ("CORDON__ADMISSION__REQUESTS_PER_SECOND", "0", "admission.requests_per_second must be more than 0"),
        ("CORDON__ADMISSION__CONCURRENCY", "0", "admission.concurrency must be more than 0"),
        (
            "CORDON__ADMISSION__PRINCIPAL_REQUESTS_PER_SECOND",
            "0",
            "admission.principal_requests_per_second must be more than 0",
        ),
        ("CORDON__ADMISSION__PRINCIPAL_CONCURRENCY", "0", "admission.principal_concurrency must be more than 0"),
        ("CORDON__DATABASE__BACKENDS", "0", "database.backends must be more than 0"),
        ("CORDON__TELEMETRY__SAMPLE_RATIO", "1.5", "telemetry.sample_ratio must be from 0 to 1"),
        ("CORDON__TELEMETRY__SAMPLE_RATIO", "-0.1", "telemetry.sample_ratio must be from 0 to 1"),
    ];
    for (variable, value, wanted) in refused {
        let said = serve(&desk, &[], &[(variable, value)]);
        assert!(said.contains(wanted), "{variable}: {said}");
    }
    let edge = [
        ("CORDON__TELEMETRY__SAMPLE_RATIO", "1.0"),
        ("CORDON__DATABASE__BACKENDS", "1"),
        ("CORDON__LIMITS__ALIASES", "0"),
    ];
    assert!(serve(&desk, &[], &edge).contains(NO_CATALOG));
}

#[test]
fn a_token_is_signed_where_dev_keeps_its_key() {
    let desk = desk("settings-token");
    let token = |variables: &[(&str, &str)], more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        let tenant = ["token", "--tenant-id", "01890a5d-ac96-774b-bcce-b302099a8057"];
        command.current_dir(&desk).args(tenant).args(more).envs(variables.iter().copied());
        assert!(command.output().unwrap().status.success());
    };
    let there = |directory: &str| desk.join(directory).join("dev-jwks.json").exists();
    token(&[("CORDON_DEV_DIR", "elsewhere")], &[]);
    assert!(there("elsewhere") && !there(".cordon"));
    token(&[("CORDON_DEV_DIR", "elsewhere")], &["--issuer-dir", "named"]);
    assert!(there("named") && !there(".cordon"));
    token(&[], &[]);
    assert!(there(".cordon"));
}

#[test]
fn redirected_lines_have_no_colours() {
    let said = serve(&desk("settings-text"), &[], &[("CORDON__LOG__FORMAT", "text")]);
    assert!(said.contains("WARN") && !said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn a_certificate_that_is_not_there_is_said_at_once() {
    let said = serve(&desk("settings-tls"), &[], &[("CORDON__HTTP__TLS", "{certificate=chain.pem,key=key.pem}")]);
    assert!(said.contains("http.tls: chain.pem: "), "{said}");
}

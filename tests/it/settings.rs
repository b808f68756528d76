//! Settings that stop a command before it does anything. The binary is run without a database.

use crate::support::run_dir;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Creates a working directory.
fn working_directory(name: &str) -> PathBuf {
    let directory = run_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Runs `cordon serve` without a catalog and returns its log. It always exits with code 2, and the log tells how far it
/// came.
fn serve(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
    command.current_dir(directory).arg("serve").args(arguments).stdin(Stdio::null());
    command
        .env("CORDON__HTTP__BIND", "127.0.0.1:0")
        .env("CORDON__TELEMETRY__BIND", "127.0.0.1:0")
        .envs(variables.iter().copied());
    let output = command.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{log}");
    log
}

/// The message when all given settings are valid.
const NO_CATALOG: &str = "catalog.url is not set";

#[test]
fn config_directory_and_profile_must_exist() {
    let directory = working_directory("settings-named");
    std::fs::create_dir_all(directory.join("settings")).unwrap();
    assert!(serve(&directory, &["--config", "nowhere"], &[]).contains("--config nowhere: there is no such directory"));
    assert!(
        serve(&directory, &["--profile", "production"], &[])
            .contains("--profile production: there is no config/production.yaml")
    );
    let log = serve(&directory, &["--config", "settings", "--profile", "production"], &[]);
    assert!(log.contains("there is no settings/production.yaml"), "{log}");
    std::fs::write(directory.join("settings/production.yaml"), "{}").unwrap();
    let log = serve(&directory, &["--config", "settings", "--profile", "production"], &[]);
    assert!(log.contains(NO_CATALOG) && log.contains("nobody can log in"), "{log}");
}

#[test]
fn profile_dev_is_built_in_and_a_file_replaces_it() {
    let directory = working_directory("settings-dev");
    std::fs::create_dir_all(directory.join("config")).unwrap();
    let log = serve(&directory, &["--profile", "dev"], &[]);
    assert!(log.contains(NO_CATALOG) && !log.contains("nobody can log in"), "the profile has an issuer: {log}");
    std::fs::write(directory.join("config/dev.yaml"), "{}").unwrap();
    let log = serve(&directory, &["--profile", "dev"], &[]);
    assert!(log.contains(NO_CATALOG) && log.contains("nobody can log in"), "{log}");
}

#[test]
fn invalid_values_stop_the_start() {
    let directory = working_directory("settings-values");
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
    for (variable, value, expected) in refused {
        let log = serve(&directory, &[], &[(variable, value)]);
        assert!(log.contains(expected), "{variable}: {log}");
    }
    let edge = [
        ("CORDON__TELEMETRY__SAMPLE_RATIO", "1.0"),
        ("CORDON__DATABASE__BACKENDS", "1"),
        ("CORDON__LIMITS__ALIASES", "0"),
    ];
    assert!(serve(&directory, &[], &edge).contains(NO_CATALOG));
}

#[test]
fn the_command_token_uses_the_key_of_dev() {
    let directory = working_directory("settings-token");
    let token = |variables: &[(&str, &str)], more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cordon"));
        let tenant = ["token", "--tenant-id", "01890a5d-ac96-774b-bcce-b302099a8057"];
        command.current_dir(&directory).args(tenant).args(more).envs(variables.iter().copied());
        assert!(command.output().unwrap().status.success());
    };
    let key_exists = |name: &str| directory.join(name).join("dev-jwks.json").exists();
    token(&[("CORDON_DEV_DIR", "elsewhere")], &[]);
    assert!(key_exists("elsewhere") && !key_exists(".cordon"));
    token(&[("CORDON_DEV_DIR", "elsewhere")], &["--issuer-dir", "named"]);
    assert!(key_exists("named") && !key_exists(".cordon"));
    token(&[], &[]);
    assert!(key_exists(".cordon"));
}

#[test]
fn a_redirected_log_has_no_colours() {
    let log = serve(&working_directory("settings-text"), &[], &[("CORDON__LOG__FORMAT", "text")]);
    assert!(log.contains("WARN") && !log.contains('\u{1b}'), "{log:?}");
}

#[test]
fn a_missing_certificate_stops_the_start() {
    let log =
        serve(&working_directory("settings-tls"), &[], &[("CORDON__HTTP__TLS", "{certificate=chain.pem,key=key.pem}")]);
    assert!(log.contains("http.tls: chain.pem: "), "{log}");
}

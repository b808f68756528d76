//! What the command line says about itself: help, version, completions and manual pages.

use crate::support::run_dir;
use std::path::Path;
use std::process::Command;

/// Standard output of a command that succeeds.
fn output(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_cordon")).args(arguments).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn help(command: &[String]) -> String {
    let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    arguments.push("--help");
    output(&arguments)
}

/// Every command and subcommand, as arguments.
fn commands() -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut next = 0;
    while let Some(command) = found.get(next).cloned() {
        next += 1;
        let help = help(&command);
        let listed = help.split_once("Commands:\n").map_or("", |(_, rest)| rest.split("\n\n").next().unwrap());
        let lines = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        for name in lines.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            found.push([&command[..], &[name.to_owned()]].concat());
        }
    }
    found
}

#[test]
fn each_help_has_examples_that_exist_and_the_exit_codes() {
    let commands = commands();
    assert!(commands.len() > 20, "{commands:?}");
    for command in &commands {
        let help = help(command);
        assert!(!help.contains('\u{1b}'), "colours without a terminal: {help}");
        for part in ["Usage: cordon", "Examples:\n  cordon ", "Exit codes:\n  0    done"] {
            assert!(help.contains(part), "{command:?} has no {part:?}: {help}");
        }
        let examples = help.split_once("Examples:\n").unwrap().1.split("\n\n").next().unwrap();
        for example in examples.lines().filter_map(|line| line.strip_prefix("  cordon ")) {
            let words: Vec<_> = example.split(' ').map(str::to_owned).collect();
            let words = if words[0] == "help" { &words[1..] } else { &words[..] };
            let exists = commands.iter().any(|command| !command.is_empty() && words.starts_with(command));
            assert!(exists, "{example}");
        }
    }
}

#[test]
fn the_version_names_the_commit() {
    let version = output(&["--version"]);
    assert!(version.starts_with(concat!("cordon ", env!("CARGO_PKG_VERSION"))), "{version}");
    let in_checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists();
    assert_eq!(version.trim_end().ends_with(')'), in_checkout, "{version}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(output(&["completions", shell]).contains("suspend"), "{shell}");
    }
    let pages = run_dir().join("man");
    output(&["man", "--out", pages.to_str().unwrap()]);
    let page = std::fs::read_to_string(pages.join("cordon-tenant-create.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("Exit codes"), "{page}");
    let written: Vec<_> = std::fs::read_dir(&pages).unwrap().map(|page| page.unwrap().file_name()).collect();
    for command in commands() {
        let name = [&["cordon".to_owned()], &command[..]].concat().join("-") + ".1";
        assert!(written.iter().any(|page| *page == *name), "{name}: {written:?}");
    }
}

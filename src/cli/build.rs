//! The build script. It sets `CORDON_COMMIT`, which `cordon --version` prints behind the version: ` (<commit>)` in a
//! checkout, and nothing elsewhere. Cargo runs it again when the checkout's commit or branch changes, not at each
//! build.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/cli/build.rs");
    // A package inside another project's repository has no commit of its own.
    let in_checkout = Path::new(".git").exists();
    let commit = in_checkout.then(|| git(&["rev-parse", "--short=9", "HEAD"])).flatten();
    println!("cargo::rustc-env=CORDON_COMMIT={}", commit.map(|commit| format!(" ({commit})")).unwrap_or_default());
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
    for file in ["HEAD", branch.as_str(), "packed-refs"].into_iter().filter(|name| in_checkout && !name.is_empty()) {
        // A path that does not exist would make cargo run this at each build.
        if let Some(path) = git(&["rev-parse", "--git-path", file]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// What git prints; `None` where it fails or is not installed.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

//! The explorer of `cordon dev` in a real Chromium: the page works, its examples run on the sample charts, and no
//! request leaves this machine.

use crate::parts;
use crate::support::run_dir;
use cordon::cluster::Binaries;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What `explorer/drive.js` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    requests: Vec<String>,
    problems: Vec<String>,
    organisations: Vec<String>,
    without_token: String,
    chart: String,
    search: String,
    drafted: String,
    signed: String,
}

#[test]
fn the_explorer_of_dev_works_in_a_browser_and_asks_nobody_else() {
    let (dev, link) = Dev::start();
    let drive = Command::new("node")
        .arg("drive.js")
        .current_dir(parts().join("explorer"))
        .env("CORDON_EXPLORER", &link)
        .env("CHROMIUM", "/usr/bin/chromium")
        .env("HOME", run_dir())
        .env("TMPDIR", run_dir())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let seen: Seen = serde_json::from_slice(&drive.stdout).unwrap();
    assert_eq!(seen.problems, Vec::<String>::new(), "{seen:#?}");
    assert_eq!(seen.organisations, ["riverside", "lakeside", "summit"]);
    assert!(seen.without_token.contains("token"), "{seen:#?}");
    assert!(seen.chart.contains("\"text\": \"Adèle Gaëtan\""), "a patient of Lakeside: {}", seen.chart);
    assert!(seen.search.contains("Henry Thornton") && seen.search.contains("Hervé Thévenot"), "{}", seen.search);
    assert!(seen.drafted.contains("DRAFT") && seen.signed.contains("SIGNED"), "{seen:#?}");
    let origin = link.split("/explorer").next().unwrap();
    assert!(origin.starts_with("http://127.0.0.1:") && seen.requests.len() >= 12, "{seen:#?}");
    let elsewhere: Vec<_> = seen.requests.iter().filter(|url| !url.starts_with(&format!("{origin}/"))).collect();
    assert_eq!(elsewhere, Vec::<&String>::new());
    dev.stop();
}

struct Dev(Child);

impl Dev {
    /// Starts `cordon dev`; also returns the explorer's link, as it is printed for people.
    fn start() -> (Self, String) {
        let home = run_dir().join("explorer/home");
        std::fs::create_dir_all(&home).unwrap();
        let binaries = Binaries::find(std::env::var_os("CORDON_POSTGRES_BIN").as_deref().map(Path::new)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_cordon"))
            .args(["dev", "--port", "0"])
            .current_dir(home.parent().unwrap())
            .env("CORDON_DEV_DIR", &home)
            .env("CORDON_POSTGRES_BIN", std::path::absolute(binaries.dir()).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let link = lines.find_map(|line| Some(line.trim().strip_prefix("Explorer")?.trim().to_owned()));
        // The rest of the text must be read, or the process waits for its reader.
        std::thread::spawn(move || lines.for_each(drop));
        (Self(child), link.expect("a link"))
    }

    fn stop(mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

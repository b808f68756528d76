//! What processes spent: processor time and memory, from /proc. Linux only, as the benches are.

use std::collections::HashMap;

/// Clock ticks of a second, as /proc counts them.
const TICKS: f64 = 100.0;

/// Seconds of processor time of a process and of all it started, those that have ended included.
pub fn seconds(root: u32) -> f64 {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(of) = process(pid) {
            all.insert(pid, of);
        }
    }
    let belongs = |mut pid: u32| {
        while pid != root {
            match all.get(&pid) {
                Some(of) if of.parent > 1 => pid = of.parent,
                _ => return false,
            }
        }
        true
    };
    all.iter().filter(|(pid, _)| belongs(**pid)).map(|(_, of)| of.ticks).sum::<f64>() / TICKS
}

/// Megabytes that a process holds in memory.
pub fn megabytes(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kilobytes: Option<f64> =
        text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.unwrap_or_default() / 1024.0
}

struct Process {
    parent: u32,
    /// Own, and of children that have ended.
    ticks: f64,
    of_children: f64,
}

/// After the name, which may hold anything: state, parent, …, and from the twelfth on user and system time, own and of ended children.
fn process(pid: u32) -> Option<Process> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = text.rsplit_once(") ")?.1.split(' ').collect();
    let sum = |fields: &[&str]| fields.iter().filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        ticks: sum(fields.get(11..15)?),
        of_children: sum(fields.get(13..15)?),
    })
}

/// Seconds that the children spent which `run` started and waited for.
pub fn of_child<T>(run: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<(f64, T)> {
    let waited = || process(std::process::id()).map_or(0.0, |own| own.of_children);
    let before = waited();
    let outcome = run()?;
    Ok(((waited() - before) / TICKS, outcome))
}

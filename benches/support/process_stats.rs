//! Processor time and memory of processes, from /proc. The benches run on Linux only.

use std::collections::HashMap;

/// Clock ticks per second in /proc.
const TICKS: f64 = 100.0;

/// Returns the processor time in seconds of a process and all its descendants, including those that have ended.
pub fn cpu_seconds(root: u32) -> f64 {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(found) = process(pid) {
            all.insert(pid, found);
        }
    }
    let is_descendant = |mut pid: u32| {
        while pid != root {
            match all.get(&pid) {
                Some(found) if found.parent > 1 => pid = found.parent,
                _ => return false,
            }
        }
        true
    };
    all.iter().filter(|(pid, _)| is_descendant(**pid)).map(|(_, process)| process.ticks).sum::<f64>() / TICKS
}

/// Returns the proportional set size of a process in megabytes.
pub fn memory_megabytes(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kilobytes: Option<f64> =
        text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse().ok());
    kilobytes.unwrap_or_default() / 1024.0
}

struct Process {
    parent: u32,
    /// Of the process itself and of its children that have ended.
    ticks: f64,
    of_children: f64,
}

/// Reads /proc/PID/stat. The fields follow the name of the program, which may contain any character: state, parent, …,
/// and from the twelfth field on user and system time of the process and of its ended children.
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

/// Returns the processor time in seconds of the children that `run` started and waited for.
pub fn child_cpu_seconds<T>(run: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<(f64, T)> {
    let child_ticks = || process(std::process::id()).map_or(0.0, |own| own.of_children);
    let before = child_ticks();
    let outcome = run()?;
    Ok(((child_ticks() - before) / TICKS, outcome))
}

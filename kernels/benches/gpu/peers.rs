//! Other people's kernels on the same card and shapes: peers.py, where python3 has them.

use std::collections::BTreeMap;
use std::process::Command;

/// Seconds by name: `case/peer`, and `ceiling/matmul`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers(BTreeMap<String, f64>);

/// Asks python3; what it cannot run is said and left out.
pub(crate) fn ask() -> Peers {
    let python = std::env::var("PLIMSOLL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gpu/peers.py");
    println!("asking {python} for PyTorch and FlashInfer (some minutes) ...");
    match Command::new(&python).arg(script).output() {
        Err(error) => {
            println!("no peers: {python} does not run: {error}");
            Peers::default()
        }
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("peers: {line}");
            }
            read(&String::from_utf8_lossy(&output.stdout))
        }
    }
}

fn read(said: &str) -> Peers {
    let lines = said.lines().filter_map(|line| {
        let (name, seconds) = line.split_once(' ')?;
        let seconds: f64 = seconds.trim().parse().ok()?;
        (seconds > 0.0).then(|| (name.to_owned(), seconds))
    });
    Peers(lines.collect())
}

impl Peers {
    pub(crate) fn seconds(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// The fastest peer on a case.
    pub(crate) fn best(&self, case: &str) -> Option<(&str, f64)> {
        let of_case = self.0.iter().filter_map(|(name, seconds)| {
            let peer = name.strip_prefix(case)?.strip_prefix('/')?;
            Some((peer, *seconds))
        });
        of_case.min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

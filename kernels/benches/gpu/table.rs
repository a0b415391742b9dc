//! The table that a run prints, and the lines for scripts.

use std::process::Command;

use crate::ceilings::Ceilings;
use crate::measure::Case;
use crate::peers::Peers;

/// The date, as this machine tells it.
pub(crate) fn today() -> String {
    let output = Command::new("date").arg("+%F").output();
    output.map_or_else(
        |_| "no date".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

pub(crate) fn head(ceilings: &Ceilings, is_checked: bool) {
    let matmul = ceilings.matmul.map_or_else(
        || "matmul not measured (no PyTorch): such rows have no share".to_owned(),
        |rate| format!("{:.0} TFLOP/s bf16 matmul", rate / 1e12),
    );
    println!(
        "ceilings of this run: {:.0} GB/s copy, {matmul}",
        ceilings.copy / 1e9
    );
    if !is_checked {
        println!("--no-trials: nothing below was checked against the CPU");
    }
    println!(
        "{:<28} {:>12} {:>9} {:>9} {:>8}   {:<12} {:>7}",
        "case", "time", "GB/s", "TFLOP/s", "ceiling", "peer", "faster"
    );
}

pub(crate) fn row(case: &Case<'_>, seconds: f64, ceilings: &Ceilings, peers: &Peers, lines: bool) {
    let (bytes, operations) = (case.bytes / seconds, case.operations / seconds);
    let share = share(case, seconds, ceilings);
    let peer = peers.best(&case.name);
    println!(
        "{:<28} {:>9.1} us {:>9.1} {:>9.2} {:>8}   {:<12} {:>7}",
        case.name,
        seconds * 1e6,
        bytes / 1e9,
        operations / 1e12,
        share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0)),
        peer.map_or("-", |(name, _)| name),
        peer.map_or_else(
            || "-".to_owned(),
            |(_, theirs)| format!("{:.2}x", theirs / seconds)
        ),
    );
    if lines {
        let share = share.map_or_else(|| "-".to_owned(), |share| share.to_string());
        let (name, theirs) = peer.map_or(("-", "-".to_owned()), |(name, s)| (name, s.to_string()));
        println!("case {} {seconds} {share} {name} {theirs}", case.name);
    }
}

/// Of the ceiling that is closer: the least time that the card could take over the time it took.
fn share(case: &Case<'_>, seconds: f64, ceilings: &Ceilings) -> Option<f64> {
    let by_bytes = case.bytes / ceilings.copy;
    let by_operations = match ceilings.matmul {
        Some(rate) => case.operations / rate,
        // Products that move little are not judged by what they move.
        None if case.operations > 100.0 * case.bytes => return None,
        None => 0.0,
    };
    Some(by_bytes.max(by_operations) / seconds)
}

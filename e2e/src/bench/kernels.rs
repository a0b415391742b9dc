//! The CUDA kernels on this machine's card, beside its ceilings and other people's kernels.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::build::{self, cargo};
use crate::paths;
use crate::process;
use crate::progress::Progress;
use crate::tools::nvcc;

/// Runs the bench, shows its table, and returns a JSON line per case.
pub(super) fn run(progress: &Progress, name: &str) -> Result<Vec<Value>> {
    let nvcc = nvcc::ensure(progress)?;
    let mut bench = cargo(&[
        "bench",
        "--quiet",
        "--locked",
        "--package",
        "plimsoll-kernels",
    ]);
    bench.args([
        "--features",
        "gpu-tests,driver",
        "--bench",
        "gpu",
        "--",
        "--lines",
    ]);
    bench.env("PLIMSOLL_NVCC", nvcc);
    let ended = progress.step("the kernels on the card", || {
        process::outcome(&mut bench, None)
    })?;
    let (lines, table): (Vec<&str>, Vec<&str>) = ended
        .stdout
        .lines()
        .partition(|line| line.starts_with("case "));
    println!("{}", table.join("\n"));
    if !ended.status.success() {
        bail!(
            "the bench of the kernels ended with {}: {}",
            ended.status,
            process::tail(&ended.stderr, 5)
        );
    }
    sanitize(progress)?;
    lines.into_iter().map(|line| row(name, line)).collect()
}

/// Every trial on the card once more, under compute-sanitizer where it is installed.
fn sanitize(progress: &Progress) -> Result<()> {
    let Some(sanitizer) = process::find("compute-sanitizer") else {
        println!("compute-sanitizer is not installed: not run");
        return Ok(());
    };
    for tool in ["memcheck", "racecheck"] {
        let trials = cargo(&["test", "--quiet", "--locked", "--profile", "trials"]);
        let mut check = process::command(&sanitizer, ["--tool", tool, "--error-exitcode", "1"]);
        check.args(["--target-processes", "all"]);
        check.arg(trials.get_program()).args(trials.get_args());
        check.args(["--package", "plimsoll-kernels"]);
        check.args(["--features", "gpu-tests,driver", "--test", "gpu"]);
        check.args(["--", "--device", "cuda"]);
        check.current_dir(paths::repository());
        check.env("CARGO_TARGET_DIR", build::target());
        progress.step(&format!("compute-sanitizer {tool}"), || {
            process::stdout_of(&mut check).map(drop)
        })?;
    }
    Ok(())
}

/// `case NAME SECONDS SHARE PEER PEER-SECONDS`, `-` where there is none.
fn row(bench: &str, line: &str) -> Result<Value> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["case", case, seconds, share, peer, theirs] = words[..] else {
        bail!("the bench says {line:?}");
    };
    let ours: f64 = seconds.parse().with_context(|| line.to_owned())?;
    let theirs: Option<f64> = theirs.parse().ok();
    Ok(json!({
        "bench": bench, "case": case, "ours": ours, "peer": theirs,
        "ratio": theirs.map(|theirs| theirs / ours), "unit": "s",
        "peerName": (peer != "-").then_some(peer), "ceilingShare": share.parse::<f64>().ok(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_bench_is_read() {
        let line = "case decode/64x4096 0.0004 0.81 flashinfer 0.0005";
        let value = row("kernels", line).unwrap();
        assert_eq!(value["ratio"], json!(1.25));
        assert_eq!(value["ceilingShare"], json!(0.81));
        let alone = row("kernels", "case poison/1GiB 0.0002 0.9 - -").unwrap();
        assert_eq!(
            (&alone["peer"], &alone["ratio"]),
            (&Value::Null, &Value::Null)
        );
        assert!(row("kernels", "case poison/1GiB").is_err());
        assert!(row("kernels", "case a many - - -").is_err());
    }
}

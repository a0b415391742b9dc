//! The CUDA kernels on this machine's card, beside its ceilings and other people's kernels.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::build::cargo;
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
    bench.env("PLIMSOLL_NVCC", &nvcc);
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
    sanitize(progress, &nvcc)?;
    lines.into_iter().map(|line| row(name, line)).collect()
}

/// Every trial on the card once more, under compute-sanitizer where it is installed.
fn sanitize(progress: &Progress, nvcc: &Path) -> Result<()> {
    let Some(sanitizer) = process::find("compute-sanitizer") else {
        println!("compute-sanitizer is not installed: not run");
        return Ok(());
    };
    let trials = progress.step("the trials, for compute-sanitizer", || trials(nvcc))?;
    for tool in ["memcheck", "racecheck"] {
        let mut check = process::command(&sanitizer, ["--tool", tool, "--error-exitcode", "1"]);
        check.arg(&trials).args(["--device", "cuda"]);
        check.current_dir(paths::repository());
        progress.step(&format!("compute-sanitizer {tool}"), || {
            process::stdout_of(&mut check).map(drop)
        })?;
    }
    Ok(())
}

/// The program of the trials, built and not run.
fn trials(nvcc: &Path) -> Result<PathBuf> {
    let mut build = cargo(&["test", "--no-run", "--quiet", "--locked"]);
    build.args(["--profile", "trials", "--package", "plimsoll-kernels"]);
    build.args(["--features", "gpu-tests,driver", "--test", "gpu"]);
    build.args(["--message-format", "json"]);
    let said = process::stdout_of(build.env("PLIMSOLL_NVCC", nvcc))?;
    executable(&said).context("cargo names no program of the trials")
}

/// The test program `gpu` among cargo's messages.
fn executable(said: &str) -> Option<PathBuf> {
    said.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_ours = message["target"]["name"] == "gpu" && message["profile"]["test"] == true;
        let path = message["executable"].as_str().filter(|_| is_ours)?;
        Some(PathBuf::from(path))
    })
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
    fn the_program_is_found_among_cargos_messages() {
        let said = r#"{"reason":"compiler-artifact","target":{"name":"build-script-build"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"name":"gpu"},"profile":{"test":true},"executable":"/t/deps/gpu-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(said), Some(PathBuf::from("/t/deps/gpu-1")));
        assert_eq!(executable("no such lines"), None);
    }

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

//! llama.cpp, built from the source that the Python package `llama-cpp-python` carries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{
    BATCH_PROMPT, BATCH_SEQUENCES, BATCH_TOKENS, DECODE_TOKENS, Figures, PREFILL_TOKENS,
};
use crate::paths;
use crate::process;
use crate::progress::Progress;

pub(crate) const VERSION: &str = "0.3.36";
/// Everything the machine has, but for the AMX paths of its quantised kernels: gcc 12 builds those
/// into a crash (the stores of the tile configuration are dropped), and BF16 weights use none.
const FLAGS: &str = "-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16";
const PROGRAMS: [&str; 3] = ["llama-bench", "llama-batched-bench", "llama-quantize"];
const REPETITIONS: &str = "5";

/// The built programs.
#[derive(Debug)]
pub(crate) struct Peer {
    folder: PathBuf,
}

#[derive(Deserialize)]
struct BenchRow {
    n_prompt: u32,
    avg_ts: f64,
}

#[derive(Deserialize)]
struct BatchRow {
    speed_tg: f64,
}

impl Peer {
    /// Builds the peer once per machine (about 12 minutes of processor time).
    pub(crate) fn ensure(progress: &Progress) -> Result<Peer> {
        let folder = paths::cache()?.join(format!("llama.cpp-{VERSION}"));
        let peer = Peer { folder };
        if peer.folder.join("complete").is_file() {
            return Ok(peer);
        }
        progress.step("build llama.cpp (once per machine, about 10 minutes)", || peer.build())?;
        Ok(peer)
    }

    pub(crate) fn flags(&self) -> &'static str {
        FLAGS
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    fn build(&self) -> Result<()> {
        let _ = fs::remove_dir_all(&self.folder);
        fs::create_dir_all(self.folder.join("bin"))?;
        let folder = self.folder.as_path();
        // A virtual environment of its own brings cmake and ninja along as packages.
        process::stdout_of(process::command("python3", ["-m", "venv"]).arg(folder.join("venv")))?;
        let python = folder.join("venv/bin/python");
        let mut tools = process::command(&python, ["-m", "pip", "install", "--quiet"]);
        process::stdout_of(tools.args(["cmake==4.4.4", "ninja", "scikit-build-core"]))?;
        let package = format!("llama-cpp-python=={VERSION}");
        let mut fetch = process::command(&python, ["-m", "pip", "download", "--quiet"]);
        fetch.args(["--no-deps", "--no-binary", "llama-cpp-python", "--dest"]);
        process::stdout_of(fetch.arg(folder).arg(package))?;
        let archive = folder.join(format!("llama_cpp_python-{VERSION}.tar.gz"));
        let mut unpack = process::command("tar", ["-xzf"]);
        process::stdout_of(unpack.arg(&archive).arg("-C").arg(folder))?;
        let unpacked = folder.join(format!("llama_cpp_python-{VERSION}"));
        let source = unpacked.join("vendor/llama.cpp");
        let build = source.join("build");
        let path = format!(
            "{}:{}",
            folder.join("venv/bin").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut configure = process::command(folder.join("venv/bin/cmake"), ["-G", "Ninja"]);
        configure.env("PATH", &path).arg("-S").arg(&source).arg("-B").arg(&build).args([
            "-DCMAKE_BUILD_TYPE=Release",
            "-DGGML_NATIVE=OFF",
            "-DBUILD_SHARED_LIBS=OFF",
            "-DLLAMA_OPENSSL=OFF",
            &format!("-DCMAKE_C_FLAGS={FLAGS}"),
            &format!("-DCMAKE_CXX_FLAGS={FLAGS}"),
        ]);
        process::logged(&mut configure, &folder.join("configure.log"))?;
        let mut make = process::command(folder.join("venv/bin/cmake"), ["--build"]);
        make.env("PATH", &path).arg(&build).arg("--target").args(PROGRAMS);
        process::logged(&mut make, &folder.join("build.log"))?;
        for name in PROGRAMS {
            fs::copy(build.join("bin").join(name), self.program(name))
                .with_context(|| format!("the build left no {name}"))?;
        }
        fs::remove_dir_all(unpacked)?;
        fs::remove_file(archive)?;
        fs::write(folder.join("complete"), FLAGS)?;
        Ok(())
    }

    /// A BF16 copy of a quantised GGUF file: the same values that our loader expands it to.
    pub(crate) fn to_bf16(&self, from: &Path, to: &Path) -> Result<()> {
        let mut convert = process::command(self.program("llama-quantize"), ["--allow-requantize"]);
        process::stdout_of(convert.arg(from).arg(to).arg("BF16")).map(drop)
    }

    /// Tokens per second of the three cases on one file.
    pub(crate) fn measure(&self, gguf: &Path, threads: usize) -> Result<Figures> {
        let threads = threads.to_string();
        let mut bench = process::command(self.program("llama-bench"), ["-o", "json", "-m"]);
        bench.arg(gguf).args(["-t", &threads, "-r", REPETITIONS]);
        bench.args(["-p", &PREFILL_TOKENS.to_string(), "-n", &DECODE_TOKENS.to_string()]);
        let text = process::stdout_of(&mut bench)?;
        let rows: Vec<BenchRow> = serde_json::from_str(&text).context("llama-bench's JSON")?;
        let find = |prompt: bool| {
            let row = rows.iter().find(|row| (row.n_prompt > 0) == prompt);
            row.map(|row| row.avg_ts).context("llama-bench printed too few rows")
        };
        let context = BATCH_SEQUENCES * (BATCH_PROMPT + BATCH_TOKENS);
        let mut batched = process::command(self.program("llama-batched-bench"), ["-m"]);
        batched.arg(gguf).args(["-t", &threads, "--output-format", "jsonl"]);
        batched.args(["-b", "2048", "-ub", "512", "-c", &context.to_string()]);
        batched.args(["-npp", &BATCH_PROMPT.to_string(), "-ntg", &BATCH_TOKENS.to_string()]);
        batched.args(["-npl", &BATCH_SEQUENCES.to_string()]);
        let text = process::stdout_of(&mut batched)?;
        let line = text.lines().find(|line| line.starts_with('{'));
        let row: BatchRow = serde_json::from_str(line.context("llama-batched-bench said nothing")?)
            .context("llama-batched-bench's JSON")?;
        Ok(Figures { prefill: find(true)?, decode: find(false)?, batch: row.speed_tg })
    }
}

//! llama.cpp, built from the source package of its Python binding: what we are measured against.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::paths;
use crate::process;
use crate::progress::Progress;
use crate::tools::python;

const SOURCE: &str = "llama-cpp-python==0.3.36";
const BUILDERS: [&str; 2] = ["cmake==4.4.4", "ninja==1.13.2"];
const TARGETS: [&str; 3] = ["llama-bench", "llama-batched-bench", "llama-quantize"];
/// A stock native build crashes on machines with AMX (it drops stores to the tile configuration);
/// BF16 has no AMX path in it, so nothing that is compared here loses speed.
const FLAGS: &str = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16";
const OPTIONS: [&str; 5] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
];

/// The built programs.
#[derive(Debug)]
pub(crate) struct LlamaCpp {
    folder: PathBuf,
}

impl LlamaCpp {
    /// Builds them when the cache lacks them: about 12 minutes on 2 cores.
    pub(crate) fn ensure(progress: &Progress) -> Result<Self> {
        let folder = paths::cache()?
            .join("tools")
            .join(SOURCE.replace("==", "-"));
        if !folder.is_dir() {
            progress.step(
                &format!("build llama.cpp from {SOURCE} (about 12 minutes)"),
                || build(&folder),
            )?;
        }
        Ok(Self { folder })
    }

    /// How it was built, for the table.
    pub(crate) fn flags() -> String {
        format!("{SOURCE} {} {FLAGS}", OPTIONS.join(" "))
    }

    /// The same model with weights of another type (`BF16`, `Q4_K_M`), kept beside the original.
    pub(crate) fn converted(
        &self,
        progress: &Progress,
        model: &Path,
        kind: &str,
    ) -> Result<PathBuf> {
        let converted = model.with_extension(format!("{}.gguf", kind.to_lowercase()));
        if !converted.is_file() {
            progress.step(&format!("convert the model to {kind}"), || {
                let unfinished = model.with_extension("unfinished");
                let mut quantize =
                    process::command(self.folder.join("llama-quantize"), ["--allow-requantize"]);
                quantize.arg(model).arg(&unfinished).arg(kind);
                process::stdout_of(&mut quantize)?;
                fs::rename(&unfinished, &converted).map_err(Into::into)
            })?;
        }
        Ok(converted)
    }

    /// Tokens per second of a prompt, or of generation: whichever is not zero.
    pub(crate) fn rate(
        &self,
        model: &Path,
        prompt: u32,
        generated: u32,
        threads: u32,
    ) -> Result<f64> {
        let mut bench =
            process::command(self.folder.join("llama-bench"), ["-o", "json", "-r", "3"]);
        bench.arg("-m").arg(model);
        for (name, value) in [("-p", prompt), ("-n", generated), ("-t", threads)] {
            bench.args([name, &value.to_string()]);
        }
        let rows: Value = serde_json::from_str(&process::stdout_of(&mut bench)?)?;
        rows[0]["avg_ts"]
            .as_f64()
            .context("llama-bench names no avg_ts")
    }

    /// Tokens per second of all of `sequences` that generate together.
    pub(crate) fn batch_rate(&self, model: &Path, batch: Batch, threads: u32) -> Result<f64> {
        let context = (batch.prompt + batch.generated) * batch.sequences;
        let mut bench = process::command(
            self.folder.join("llama-batched-bench"),
            ["--output-format", "jsonl"],
        );
        bench.arg("-m").arg(model);
        for (name, value) in [
            ("-npp", batch.prompt),
            ("-ntg", batch.generated),
            ("-npl", batch.sequences),
            ("-c", context.next_power_of_two()),
            ("-t", threads),
            ("-tb", threads),
        ] {
            bench.args([name, &value.to_string()]);
        }
        let said = process::stdout_of(&mut bench)?;
        let row = said.lines().rev().find(|line| line.starts_with('{'));
        let row: Value = serde_json::from_str(row.context("llama-batched-bench prints no row")?)?;
        row["speed_tg"]
            .as_f64()
            .context("llama-batched-bench names no speed_tg")
    }
}

/// Sequences that run together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    pub(crate) sequences: u32,
    pub(crate) prompt: u32,
    pub(crate) generated: u32,
}

fn build(target: &Path) -> Result<()> {
    let tools = target.parent().context("the cache folder has no parent")?;
    fs::create_dir_all(tools)?;
    let work = tools.join(format!(".building-llama-cpp-{}", std::process::id()));
    let result = compile(&work).and_then(|()| {
        fs::rename(work.join("done"), target).context("cannot move llama.cpp into the cache")
    });
    let _ = fs::remove_dir_all(&work);
    result
}

fn compile(work: &Path) -> Result<()> {
    fs::create_dir_all(work)?;
    let python = python::environment("build-llama-cpp", &BUILDERS)?;
    let bin = python
        .parent()
        .context("an interpreter lies in a folder")?
        .to_path_buf();
    let mut fetch = process::command(&python, ["-m", "pip", "download", "--quiet", "--no-deps"]);
    fetch
        .args(["--no-binary", ":all:", SOURCE, "--dest"])
        .arg(work);
    process::stdout_of(&mut fetch)?;
    let archive = only(work, |name| name.ends_with(".tar.gz"))?;
    let mut unpack = process::command(&python, ["-m", "tarfile", "-e"]);
    process::stdout_of(unpack.arg(&archive).arg(work))?;
    let source = only(work, |name| {
        name.starts_with("llama_cpp_python-") && !name.ends_with("gz")
    })?;
    let out = work.join("out");
    let path = format!(
        "{}:{}",
        bin.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut configure = process::command(bin.join("cmake"), ["-G", "Ninja", "-S"]);
    configure
        .arg(source.join("vendor/llama.cpp"))
        .arg("-B")
        .arg(&out)
        .args(OPTIONS);
    configure
        .arg(format!("-DCMAKE_C_FLAGS={FLAGS}"))
        .arg(format!("-DCMAKE_CXX_FLAGS={FLAGS}"));
    process::stdout_of(configure.env("PATH", &path))?;
    let mut make = process::command(bin.join("cmake"), ["--build"]);
    make.arg(&out).arg("--target").args(TARGETS);
    process::stdout_of(make.env("PATH", &path))?;
    let done = work.join("done");
    fs::create_dir_all(&done)?;
    for name in TARGETS {
        fs::copy(out.join("bin").join(name), done.join(name)).with_context(|| name.to_owned())?;
    }
    Ok(())
}

fn only(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let found = fs::read_dir(folder)?
        .flatten()
        .find(|entry| wanted(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path());
    match found {
        Some(path) => Ok(path),
        None => bail!(
            "{SOURCE} is not laid out as expected below {}",
            folder.display()
        ),
    }
}

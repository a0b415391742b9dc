//! `plimsoll-sidecar`: the commands.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    reason = "plan, inspect and version answer on standard output"
)]

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use plimsoll_sidecar::args::{
    BenchArgs, Cli, Command, DevicesArgs, InspectArgs, LogArgs, LogFormat, MergeArgs, Output,
    PlanArgs, ServeArgs,
};
use plimsoll_sidecar::error::{BootError, EXIT_USAGE};
use plimsoll_sidecar::model::ModelFolder;
use plimsoll_sidecar::{bench, boot, chat, config, devices, inspect, merge};

/// `plan`: no split fits.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let Cli { command, log } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => {
            // Help and the version are told this way, too.
            let is_error = told.use_stderr();
            let code = if is_error { EXIT_USAGE } else { 0 };
            return match told.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    let outcome = start_log(&log).and_then(|()| match command {
        Command::Serve(args) => serve(*args),
        Command::Plan(args) => plan(&args),
        Command::Inspect(args) => inspect_model(&args),
        Command::Merge(args) => merge_model(&args),
        Command::Bench(args) => bench_model(&args),
        Command::Devices(args) => list_devices(&args),
        Command::RenderChat => render_chats(),
        Command::Version => {
            println!("plimsoll-sidecar {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    });
    outcome.unwrap_or_else(|error| {
        eprintln!("plimsoll-sidecar: {error:#}");
        ExitCode::FAILURE
    })
}

/// Logs go to standard error; colours only where somebody looks.
fn start_log(args: &LogArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log_level)
        .with_context(|| format!("--log-level: {:?} is no filter", args.log_level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match args.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    // The engine's ranks have the CPUs; HTTP and text need little of them.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .thread_name("http")
        .enable_all()
        .build()?;
    let termination_message = args.termination_message.clone();
    let outcome = runtime.block_on(boot::serve(args));
    // What still runs (a stream of reports, a model being opened) must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => {
            tracing::info!("ended");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let message = error.to_string();
            tracing::error!(error = message, "ended by a failure");
            boot::write_termination_message(termination_message.as_deref(), &message);
            Ok(ExitCode::from(error.exit_code()))
        }
    }
}

fn plan(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let model = ModelFolder::open_with(&args.model, &args.adapters.merged())?;
    let dynamic = config::open_dynamic(&args.adapters.dynamic(), &model)?;
    let flags = args
        .memory
        .with_room_for(&args.adapters, &args.adapter_root);
    match config::plan_flags_with(&flags, &model, &dynamic) {
        Ok(planned) => {
            print!(
                "{}",
                plimsoll_planner::table(&planned.request, &planned.plan)
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ BootError::FlagsRefused(_)) => {
            println!("{error}");
            Ok(ExitCode::from(REFUSED))
        }
        Err(error) => {
            eprintln!("plimsoll-sidecar: {error}");
            Ok(ExitCode::from(error.exit_code()))
        }
    }
}

fn inspect_model(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let (merged, dynamic) = (args.adapters.merged(), args.adapters.dynamic());
    let facts = inspect::facts_with(&args.model, &merged, &dynamic);
    let json = inspect::result_json(&facts);
    match (args.output, &facts) {
        (Output::Json, _) => println!("{json}"),
        (Output::Text, Ok(facts)) => println!("{}", lines_of(facts)?),
        (Output::Text, Err(_)) => {}
    }
    let written = args.termination_message.as_ref().map_or(Ok(()), |path| {
        let written = boot::write_words(path, &json);
        written.with_context(|| format!("--termination-message {}", path.display()))
    });
    // What is wrong with the model is said first: it is what was asked for.
    match (facts, written) {
        (Err(error), Err(other)) => Err(anyhow::anyhow!("{error}; and {other:#}")),
        (Err(error), Ok(())) => Err(error.into()),
        (Ok(_), written) => written.map(|()| ExitCode::SUCCESS),
    }
}

fn merge_model(args: &MergeArgs) -> anyhow::Result<ExitCode> {
    let written = merge::run(args)?;
    for told in &written.told {
        tracing::warn!("{told}");
    }
    for of in &written.adapters {
        println!(
            "{}: rank {}, {} tensors, {:.2}% of their {} numbers changed, by {:.4} of the length that was \
             meant; {:.2}% lost to rounding",
            of.name,
            of.rank,
            of.tensors,
            100.0 * of.figures.changed_share(),
            of.figures.numbers,
            of.figures.norm_ratio(),
            100.0 * of.figures.lost()
        );
    }
    println!(
        "{}: {} files with {} bytes of weights{}",
        args.out.display(),
        written.files,
        written.bytes,
        match written.untied {
            true => "; the head has a tensor of its own now (tie_word_embeddings is false)",
            false => "",
        }
    );
    Ok(ExitCode::SUCCESS)
}

fn list_devices(args: &DevicesArgs) -> anyhow::Result<ExitCode> {
    let devices = devices::find()?;
    match args.output {
        Output::Text => print!("{devices}"),
        Output::Json => println!("{}", devices.json()),
    }
    Ok(ExitCode::SUCCESS)
}

fn bench_model(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    if args.overlap {
        return bench_overlap(args);
    }
    if let Some(rank) = args.lora_rank {
        return bench_lora(args, rank);
    }
    bench::run(args, |measured| {
        let (case, rate) = (measured.case.name(), measured.median());
        match args.output {
            Output::Text => println!("{case:<14} {rate:>10.1} tokens/s"),
            Output::Json => println!(
                "{}",
                serde_json::json!({"case": case, "tokensPerSecond": rate, "runs": measured.runs})
            ),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn bench_overlap(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    bench::overlap(args, |measured| {
        let (case, ratio) = (measured.one.case.name(), measured.ratio());
        let (one, two) = (measured.one.median(), measured.two.median());
        match args.output {
            Output::Text => println!(
                "{case:<14} one step under way {one:>9.1}, two {two:>9.1} tokens/s: ratio {ratio:.3}"
            ),
            Output::Json => println!(
                "{}",
                serde_json::json!({
                    "case": case,
                    "oneTokensPerSecond": one,
                    "twoTokensPerSecond": two,
                    "ratio": ratio
                })
            ),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn bench_lora(args: &BenchArgs, rank: u32) -> anyhow::Result<ExitCode> {
    bench::lora(args, rank, |measured| {
        let (case, ratio) = (measured.one.case.name(), measured.ratio());
        let (base, adapter) = (measured.one.median(), measured.two.median());
        match args.output {
            Output::Text => println!(
                "{case:<14} rows of the base {base:>9.1}, of an adapter of rank {rank} {adapter:>9.1} \
                 tokens/s: ratio {ratio:.3}"
            ),
            Output::Json => println!(
                "{}",
                serde_json::json!({
                    "case": case,
                    "rank": rank,
                    "baseTokensPerSecond": base,
                    "adapterTokensPerSecond": adapter,
                    "ratio": ratio
                })
            ),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn render_chats() -> anyhow::Result<ExitCode> {
    chat::worker::run(std::io::stdin().lock(), std::io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

/// `name: value` lines in the order and spelling of `status.model`.
fn lines_of(facts: &plimsoll_crds::v1alpha1::ModelFacts) -> anyhow::Result<String> {
    let value = serde_json::to_value(facts)?;
    let fields = value.as_object().context("facts are an object")?;
    let lines = fields.iter().map(|(name, value)| match value {
        serde_json::Value::String(text) => format!("{name}: {text}"),
        other => format!("{name}: {other}"),
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

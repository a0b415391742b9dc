//! `plimsoll-e2e`: brings up a real Kubernetes and runs the demo, the tests and the benches on it.
//!
//! Everyone starts it through `e2e/run`.

#![expect(clippy::print_stdout, reason = "a command line tool talks to its user")]

mod bench;
mod build;
mod changed;
mod cluster;
mod demo;
mod diagnose;
mod http;
mod images;
mod install;
mod interrupt;
mod kube;
mod model;
mod paths;
mod process;
mod progress;
mod registry;
mod session;
mod table;
mod test;
mod tools;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::cluster::{Cluster, cleanup};
use crate::install::Archives;
use crate::progress::Progress;
use crate::session::Alone;
use crate::tools::Tools;

#[derive(Debug, Parser)]
#[command(
    name = "e2e/run",
    about = "A real Kubernetes on this machine, and what runs on it"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install and build what is missing; say what and why
    Setup,
    /// Bring a cluster up and leave it up
    Up {
        /// How many nodes it has
        #[arg(long, default_value_t = 2)]
        nodes: u32,
    },
    /// Take the cluster away without a trace
    Down,
    /// What of the cluster runs
    Status,
    /// The quick start: cluster, chart, a real model, an answer, memory figures
    Demo(demo::Demo),
    /// Every test, or the groups named; `test list` names them
    Test {
        #[arg(value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Build the images of the operator, the sidecar and the model; import them into a running cluster
    Images,
    /// Fetch the demo's model and check it
    Model {
        /// Print only where the file lies
        #[arg(long)]
        print_path: bool,
    },
    /// Compare with peers on this machine: `bench cpu`, and `bench before` with an earlier build;
    /// with a card, `bench kernels`
    Bench {
        name: String,
        /// For `bench before`: the earlier plimsoll-sidecar
        #[arg(long, value_name = "FILE")]
        peer: Option<PathBuf>,
        /// Also write one JSON line per case
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Write the generated files: the CRD in the chart, the table of conditions
    Generate,
}

fn main() -> ExitCode {
    match interrupt::install().and_then(|()| run(Arguments::parse().command)) {
        Ok(code) => code,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let progress = Progress::new();
    match command {
        Command::Setup => {
            tools::setup(&progress)?;
            tools::nvcc::ensure(&progress)?;
        }
        Command::Up { nodes } => {
            let _alone = Alone::take()?;
            let tools = Tools::ensure(&progress)?;
            let cluster = Cluster::up(&progress, &tools, nodes)?;
            progress.say(&format!(
                "up; export KUBECONFIG={}",
                cluster.kubeconfig().display()
            ));
        }
        Command::Down => {
            let _alone = Alone::take()?;
            progress.step("cluster down", cleanup::down)?;
        }
        Command::Status => cluster::print_status(),
        Command::Demo(demo) => demo::run(&progress, &demo)?,
        Command::Test { groups } => {
            if !test::run(&progress, &groups)? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Images => make_images(&progress)?,
        Command::Model { print_path: true } => println!("{}", model::ensure(&progress)?.display()),
        Command::Model { print_path: false } => {
            let file = model::ensure(&progress)?;
            images::print_sizes(&[model::image(&file)?])?;
            progress.say(&format!("the model lies at {}", file.display()));
        }
        Command::Bench { name, peer, json } => {
            bench::run(&progress, &name, peer.as_deref(), json.as_deref())?;
        }
        Command::Generate => {
            let mut generate = build::crdgen()?;
            generate.arg("write").arg(paths::repository());
            print!("{}", process::stdout_of(&mut generate)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn make_images(progress: &Progress) -> Result<()> {
    let tools = Tools::ensure(progress)?;
    let archives = Archives::ensure(progress)?;
    for archive in archives.all() {
        println!("{}", archive.display());
    }
    if cleanup::is_anything_left() {
        let cluster = Cluster::running(&tools)?;
        progress.step("import the images into the nodes", || {
            cluster.import(&archives.all())
        })?;
    }
    Ok(())
}

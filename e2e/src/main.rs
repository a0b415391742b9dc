//! `plimsoll-e2e`: brings up a real Kubernetes and runs the demo, the tests and the benches on it.
//!
//! Everyone starts it through `e2e/run`.

#![expect(clippy::print_stdout, reason = "a command line tool talks to its user")]

mod cluster;
mod http;
mod images;
mod interrupt;
mod kube;
mod paths;
mod process;
mod progress;
mod tools;
mod wait;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::cluster::{Cluster, cleanup};
use crate::progress::Progress;
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
        Command::Setup => tools::setup(&progress).map(drop)?,
        Command::Up { nodes } => {
            let tools = Tools::ensure(&progress)?;
            let cluster = Cluster::up(&progress, &tools, nodes)?;
            progress.say(&format!(
                "up; export KUBECONFIG={}",
                cluster.kubeconfig().display()
            ));
        }
        Command::Down => progress.step("cluster down", cleanup::down)?,
        Command::Status => cluster::print_status(),
    }
    Ok(ExitCode::SUCCESS)
}

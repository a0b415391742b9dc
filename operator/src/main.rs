//! `plimsoll-operator`: gather, plan, build, apply, publish. The modules are listed as the data
//! flows.
#![forbid(unsafe_code)]

// The process.
mod abilities;
mod args;
mod http;
mod key;
mod lead;
mod leader;
mod log;
mod mandate;
mod metrics;
mod token;

// From a change to a pass.
mod controller;
mod ending;
mod enforcement;
mod error;
mod reconcile;
mod stores;
mod watch;
mod working;

// Gather.
mod admin_port;
mod children;
mod facts;
mod gather;
mod memory;
mod pods;
mod reports;

// Plan and build (pure).
mod adapters;
mod build;
mod desire;
mod inspect;
mod plan;
mod reach;
mod rolling;
mod resizes;
mod room;
mod sleepers;
mod steer;
mod turns;
mod weights;

// Apply.
mod apply;
mod drift;

// Publish.
mod changes;
mod conditions;
mod events;
mod outcome;
mod progress;
mod publish;
mod renewal;
mod status;

#[cfg(test)]
mod testing;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as signalling;

use args::Args;
use lead::Leader;
use mandate::Mandate;
use metrics::Metrics;
use stores::Watches;

/// A watch without an answer for longer is made anew; the API server ends each sooner than that.
const READ_TIMEOUT: Duration = Duration::from_secs(320);
/// A renewal of the Lease that is not answered by then is tried again while there is time.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log::to_stderr(args.log_format);
    run(args).await
}

async fn run(args: Args) -> anyhow::Result<()> {
    args.check().map_err(anyhow::Error::msg)?;
    let metrics = Arc::new(Metrics::new()?);
    let mandate = match args.leader_election {
        true => Mandate::none(),
        false => Mandate::forever(),
    };
    let config = config(&args).await?;
    let ready = Arc::new(AtomicBool::new(false));
    let stop = stop_signal()?;
    let watches = Arc::new(Watches::new(Arc::clone(&metrics)));
    let health = http::Health {
        metrics: Arc::clone(&metrics),
        ready: Arc::clone(&ready),
        watches: Arc::clone(&watches),
    };
    let mut stop_http = stop.clone();
    let server = tokio::spawn(http::serve(args.metrics_address, health, async move {
        // The sender lives as long as the process.
        let _ = stop_http.wait_for(|stop| *stop).await;
    }));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        "plimsoll-operator starts"
    );

    let leader = Leader {
        client: client(config.clone(), READ_TIMEOUT, Some(&mandate))?,
        election: client(config, ELECTION_TIMEOUT, None)?,
        mandate,
        metrics,
        watches,
        args: Arc::new(args),
        ready,
    };
    let mut work = pin!(leader.run(stop));
    tokio::select! {
        outcome = server => {
            outcome?.context("serve --metrics-address")?;
            // Told to stop: the endpoints are gone first, the Lease is given back last.
            work.await?;
        }
        outcome = &mut work => outcome?,
    }
    tracing::info!("plimsoll-operator ends");
    Ok(())
}

async fn config(args: &Args) -> anyhow::Result<kube::Config> {
    match &args.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("--kubeconfig {}", path.display()))?;
            let options = KubeConfigOptions::default();
            Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?)
        }
        None => kube::Config::infer().await.context("find the API server"),
    }
}

/// A client that waits so long for an answer, and writes with the mandate only.
fn client(
    mut config: kube::Config,
    read_timeout: Duration,
    mandate: Option<&Mandate>,
) -> anyhow::Result<kube::Client> {
    config.connect_timeout = Some(Duration::from_secs(5).min(read_timeout));
    config.read_timeout = Some(read_timeout);
    let builder = ClientBuilder::try_from(config)?;
    Ok(match mandate {
        Some(mandate) => builder.with_layer(&mandate.layer()).build(),
        None => builder.build(),
    })
}

/// Turns true at SIGTERM or Ctrl-C.
fn stop_signal() -> anyhow::Result<signalling::Receiver<bool>> {
    let (sender, receiver) = signalling::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop");
        sender.send_replace(true);
        sender.closed().await;
    });
    Ok(receiver)
}

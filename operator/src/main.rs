//! `plimsoll-operator`: gather, plan, build, apply, publish. The modules are listed as the data
//! flows.
#![forbid(unsafe_code)]

// The process.
mod args;
mod http;
mod leader;
mod log;
mod metrics;
mod token;

// From a change to a pass.
mod controller;
mod error;
mod reconcile;
mod stores;
mod watch;

// Gather.
mod facts;
mod gather;
mod memory;
mod pods;
mod reports;

// Plan and build (pure).
mod build;
mod desire;
mod inspect;
mod plan;
mod rolling;
mod room;
mod turns;

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
mod status;

#[cfg(test)]
mod testing;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as signalling;

use args::Args;
use controller::Shared;
use leader::Leadership;
use metrics::Metrics;
use stores::Watches;
use token::AdminKey;
use turns::Turns;

/// Passes that run when the process is told to stop may end within this.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(8);
/// A watch without an answer for longer is made anew; the API server ends each sooner than that.
const READ_TIMEOUT: Duration = Duration::from_secs(320);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log::to_stderr(args.log_format);
    run(args).await
}

async fn run(args: Args) -> anyhow::Result<()> {
    args.check().map_err(anyhow::Error::msg)?;
    let key = AdminKey::read(&args.hmac_key_file).map_err(anyhow::Error::msg)?;
    let metrics = Arc::new(Metrics::new()?);
    let client = client(&args).await?;
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

    let shared = Shared {
        client,
        metrics,
        watches,
        turns: Arc::new(Turns::new(args.max_concurrent_rollouts.into())),
        key,
        args: Arc::new(args),
    };
    let mut work = pin!(lead(shared, ready, stop));
    tokio::select! {
        outcome = server => {
            outcome?.context("serve --metrics-address")?;
            // Told to stop: the endpoints are gone first, the Lease is given back last.
            work.await;
        }
        () = &mut work => {}
    }
    tracing::info!("plimsoll-operator ends");
    Ok(())
}

async fn client(args: &Args) -> anyhow::Result<kube::Client> {
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("--kubeconfig {}", path.display()))?;
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?
        }
        None => kube::Config::infer().await.context("find the API server")?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(READ_TIMEOUT);
    Ok(kube::Client::try_from(config)?)
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

/// Reconciles whenever this process leads, until it is told to stop.
async fn lead(shared: Shared, ready: Arc<AtomicBool>, mut stop: signalling::Receiver<bool>) {
    let args = Arc::clone(&shared.args);
    let mut stopped = stop.clone();
    let (mut leadership, _alone) = match args.leader_election {
        true => {
            let namespace = args
                .lease_namespace
                .clone()
                .unwrap_or_else(|| shared.client.default_namespace().to_owned());
            let election = Leadership::elect(
                shared.client.clone(),
                &args.lease_name,
                &namespace,
                args.pod_name.as_deref(),
            );
            tokio::select! {
                leadership = election => (leadership, None),
                _ = stopped.wait_for(|stop| *stop) => return,
            }
        }
        false => {
            let (leadership, sender) = Leadership::alone();
            (leadership, Some(sender))
        }
    };
    ready.store(true, Ordering::Relaxed);
    while !*stop.borrow() {
        tokio::select! {
            () = leadership.wait_for(true) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        tracing::info!("this process leads");
        shared.metrics.leader.set(1);
        work(&shared, &leadership, &stop).await;
        shared.metrics.leader.set(0);
    }
    leadership.release().await;
}

/// Runs the controllers until the Lease is lost or the process is told to stop.
async fn work(shared: &Shared, leadership: &Leadership, stop: &signalling::Receiver<bool>) {
    let namespaces: Vec<&String> = shared
        .args
        .watch_namespaces
        .iter()
        .filter(|name| !name.is_empty())
        .collect();
    let scopes: Vec<Option<String>> = match namespaces.as_slice() {
        [] => vec![None],
        names => names.iter().map(|name| Some((*name).clone())).collect(),
    };
    shared.turns.begin(scopes.len());
    let mut controllers = tokio::task::JoinSet::new();
    for scope in scopes {
        let (mut leads, mut stop) = (leadership.observer(), stop.clone());
        let end = async move {
            tokio::select! {
                _ = leads.wait_for(|leads| !*leads) => tracing::warn!("the Lease is lost"),
                _ = stop.wait_for(|stop| *stop) => {}
            }
        };
        controllers.spawn(controller::run(shared.clone(), scope, end));
    }
    let mut stopped = stop.clone();
    tokio::select! {
        () = async { while controllers.join_next().await.is_some() {} } => return,
        _ = stopped.wait_for(|stop| *stop) => {}
    }
    let all = async { while controllers.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
        tracing::warn!("passes were cut short");
    }
}

//! Carries out what targets say of adapters: one step at a time, beside requests and whatever else a
//! target asks for. An adapter that cannot be loaded keeps no other from it, and is tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::app::App;
use super::control::lora::load_opened;
use super::reads::Reads;
use super::target::carry_out;
use crate::engine::control::ControlError;
use crate::engine::dynamic::AdapterRefused;
use crate::engine::handle::EngineState;
use crate::target::Change;
use crate::target::adapters::Step;

/// An engine that sleeps, or does not run yet, is asked again so soon.
const AGAIN: Duration = Duration::from_secs(1);

/// What came of a step.
#[derive(Debug)]
enum Outcome {
    Done,
    Refused(String),
    /// The engine takes no adapter in its state, or it is not read yet.
    NotNow,
    /// It is not read yet, and what is told of that.
    Hangs(String),
}

/// Follows the newest target for as long as the process runs.
pub fn follow_adapters(app: &Arc<App>) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let mut reads = Reads::default();
        while let Some(held) = app.identity.target.get() {
            let Some((step, at)) = held.adapters(|wanted| wanted.next()) else {
                held.told().await;
                continue;
            };
            let now = Instant::now();
            if at > now {
                // Something newer may be told before.
                let _elapsed = tokio::time::timeout(at - now, held.told()).await;
                continue;
            }
            let outcome = carried_out(&app, &mut reads, &step).await;
            let now = Instant::now();
            match outcome {
                Outcome::NotNow => held.adapters(|wanted| wanted.postpone(&step, now + AGAIN)),
                Outcome::Hangs(why) => {
                    held.adapters(|wanted| wanted.hangs(&step, why, now + AGAIN));
                }
                Outcome::Done => {
                    tracing::info!(?step, "a target's adapter");
                    held.adapters(|wanted| wanted.settle(&step, Ok(()), now));
                }
                Outcome::Refused(why) => {
                    tracing::warn!(?step, why, "a target's adapter");
                    held.adapters(|wanted| wanted.settle(&step, Err(why), now));
                }
            }
        }
    });
}

/// Carries out the first target's sleep once all of its adapters were tried, or a minute has passed: an
/// engine that sleeps loads none, and the first request for one would wait for the read, too.
pub fn after_adapters(app: &Arc<App>, first: Change) {
    const MOST: Duration = Duration::from_secs(60);
    let app = Arc::clone(app);
    tokio::spawn(async move {
        if let Some(held) = app.identity.target.get() {
            let _elapsed = tokio::time::timeout(MOST, held.adapters_begun()).await;
        }
        carry_out(&app, first);
    });
}

async fn carried_out(app: &App, reads: &mut Reads, step: &Step) -> Outcome {
    match step {
        Step::Load(_) if !takes_adapters(app) => Outcome::NotNow,
        Step::Load(adapter) => {
            let Some(loaded) = app.peek() else {
                return Outcome::NotNow;
            };
            if let Err(why) = app.check_names([adapter.name.as_str()].into_iter()) {
                return Outcome::Refused(why);
            }
            let opened = match reads.read(&loaded, adapter, Instant::now()).await {
                Ok(Some(opened)) => opened,
                Ok(None) => {
                    let hangs = reads.hangs(adapter, Instant::now());
                    return hangs.map_or(Outcome::NotNow, Outcome::Hangs);
                }
                Err(why) => return Outcome::Refused(why),
            };
            match load_opened(&loaded, opened, true).await {
                Ok(()) => Outcome::Done,
                // It fell asleep, an update began, or a slot is about to be free.
                Err(why) if !takes_adapters(app) || waits(&why) => Outcome::NotNow,
                Err(why) => Outcome::Refused(why.to_string()),
            }
        }
        // Also of an engine that sleeps: it may be why that does not wake.
        Step::Unload(name) => match app.peek() {
            None => Outcome::NotNow,
            Some(loaded) => match loaded.engine.unload_adapter(name.clone()).answer().await {
                Ok(()) | Err(ControlError::Adapter(AdapterRefused::Unknown { .. })) => {
                    Outcome::Done
                }
                Err(error) if waits(&error) => Outcome::NotNow,
                Err(error) => Outcome::Refused(error.to_string()),
            },
        },
    }
}

/// Whether a command may be taken in a moment.
fn waits(error: &ControlError) -> bool {
    matches!(
        error,
        ControlError::Loading
            | ControlError::WrongState { .. }
            | ControlError::QueueFull { .. }
            | ControlError::Adapter(AdapterRefused::NoSlot { leaving: 1.., .. })
    )
}

/// Whether the engine answers, and so could answer with an adapter.
fn takes_adapters(app: &App) -> bool {
    let Some(loaded) = app.peek() else {
        return false;
    };
    match &*loaded.engine.subscribe().borrow() {
        EngineState::Serving | EngineState::Paused | EngineState::Resizing => true,
        EngineState::Loading
        | EngineState::Sleeping
        | EngineState::Asleep
        | EngineState::Waking
        | EngineState::Draining
        | EngineState::Drained
        | EngineState::Failed { .. } => false,
    }
}

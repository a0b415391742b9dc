//! Carries out what targets say of adapters: one step at a time, beside requests and whatever else a
//! target asks for. An adapter that cannot be loaded keeps no other from it, and is tried again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::app::App;
use super::control::lora::open_and_load;
use crate::adapters::AdapterPath;
use crate::engine::control::ControlError;
use crate::engine::dynamic::AdapterRefused;
use crate::engine::handle::EngineState;
use crate::target::adapters::Step;

/// An engine that sleeps, or does not run yet, is asked again so soon.
const AGAIN: Duration = Duration::from_secs(1);

/// What came of a step.
#[derive(Debug)]
enum Outcome {
    Done,
    Refused(String),
    /// The engine takes no adapter in its state.
    NotNow,
}

/// Follows the newest target for as long as the process runs.
pub fn follow_adapters(app: &Arc<App>) {
    let app = Arc::clone(app);
    tokio::spawn(async move {
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
            let outcome = carried_out(&app, &step).await;
            let now = Instant::now();
            match outcome {
                Outcome::NotNow => held.adapters(|wanted| wanted.postpone(&step, now + AGAIN)),
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

async fn carried_out(app: &App, step: &Step) -> Outcome {
    if !takes_adapters(app) {
        return Outcome::NotNow;
    }
    let outcome = match step {
        Step::Load(adapter) => {
            let at = AdapterPath {
                name: adapter.name.clone(),
                path: PathBuf::from(&adapter.path),
                scale: adapter.scale,
            };
            let loaded = match app.check_names([at.name.as_str()].into_iter()) {
                Ok(()) => open_and_load(app, at, true)
                    .await
                    .map_err(|error| error.message),
                Err(why) => Err(why),
            };
            loaded.map_or_else(Outcome::Refused, |()| Outcome::Done)
        }
        Step::Unload(name) => match app.peek() {
            None => Outcome::NotNow,
            Some(loaded) => match loaded.engine.unload_adapter(name.clone()).answer().await {
                Ok(()) | Err(ControlError::Adapter(AdapterRefused::Unknown { .. })) => {
                    Outcome::Done
                }
                Err(error) => Outcome::Refused(error.to_string()),
            },
        },
    };
    match outcome {
        // It fell asleep, or an update began, before it came to that.
        Outcome::Refused(_) if !takes_adapters(app) => Outcome::NotNow,
        outcome => outcome,
    }
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

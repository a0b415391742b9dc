//! What every handler shares: the served names, the loaded model once there is one, the metrics.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::MemoryReport;
use plimsoll_crds::v1alpha1::report::LoadProgress;
use plimsoll_planner::host;
use tokio::sync::Semaphore;

use super::bodies::Bodies;
use super::error::ApiError;
use super::generator::{Generator, asleep, draining, memory_pending, refusal};
pub use super::loaded::Loaded;
use super::named::Named;
use super::updates::Updates;
use crate::engine::dynamic::AdaptersInSlots;
use crate::engine::handle::{EngineState, lock};
use crate::error::OverLimit;
use crate::metrics::{EngineFigures, Metrics, Scrape};
use crate::report::{self, EngineView, HostReader, Identity};
use crate::resizes::Resizes;
use crate::target::Held;
use crate::target::adapters::Standing;

/// Requests that wait at once for an adapter to be loaded: each holds its prompts, as those in the
/// engine's queue do.
pub const WAITING_MOST: usize = 16;

/// Bounds on what one client can hold.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Bytes of one request body.
    pub body_bytes: usize,
    /// Connections of the API port.
    pub connections: usize,
    /// For the headers of a request, idle keep-alive included.
    pub header_timeout: Duration,
    /// For the body of a request.
    pub body_timeout: Duration,
    /// For 64 KiB more of pushed weights.
    pub push_timeout: Duration,
    /// For a reader that takes nothing of its answer.
    pub write_timeout: Duration,
    /// Streams of `/memory/watch`.
    pub watchers: usize,
    /// For a request that came to an engine that was asleep or waking up.
    pub wake_timeout: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        HttpLimits {
            body_bytes: 4 << 20,
            connections: host::CONNECTIONS as usize,
            header_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            push_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            watchers: 8,
            wake_timeout: Duration::from_secs(120),
        }
    }
}

#[derive(Debug)]
pub struct App {
    /// Names that requests may use; never empty, the first is in metrics and answers.
    pub served: Vec<String>,
    /// Folders under which other weights may lie; none: they cannot be replaced from files.
    pub weights_roots: Vec<PathBuf>,
    /// Folders under which adapters may lie that are loaded while the server runs; none: none are.
    pub adapter_roots: Vec<PathBuf>,
    /// Where the model was read from, for `root` in `/v1/models`.
    pub root: String,
    pub limits: HttpLimits,
    /// Places of requests that wait for an adapter to be loaded.
    pub awaiting: Semaphore,
    /// What request bodies may hold together.
    pub bodies: Bodies,
    pub metrics: Arc<Metrics>,
    pub identity: Identity,
    /// Set once the plan is checked.
    pub resizes: OnceLock<Arc<Resizes>>,
    /// Why the engine is not started yet.
    waiting: Mutex<Option<OverLimit>>,
    host: HostReader,
    /// Unix seconds of the start, for `created` in `/v1/models`.
    pub created: u64,
    loaded: OnceLock<Arc<Loaded>>,
    draining: AtomicBool,
    next_id: AtomicU64,
    /// Answers under way.
    pub named: Arc<Named>,
    /// The update of pushed weights that is open.
    pub updates: Arc<Updates>,
}

impl App {
    pub fn new(served: Vec<String>, root: String, limits: HttpLimits, identity: Identity) -> App {
        let model = served.first().map_or("", String::as_str);
        App {
            metrics: Arc::new(Metrics::new(model)),
            served,
            weights_roots: Vec::new(),
            adapter_roots: Vec::new(),
            root,
            awaiting: Semaphore::new(WAITING_MOST),
            bodies: Bodies::new(limits.body_bytes),
            limits,
            identity,
            resizes: OnceLock::new(),
            waiting: Mutex::default(),
            host: HostReader::new(),
            created: unix_seconds(),
            loaded: OnceLock::new(),
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
            named: Arc::default(),
            updates: Arc::default(),
        }
    }

    /// From now on requests can reach the engine. Called once, by boot.
    pub fn set_loaded(&self, loaded: Loaded) {
        // A second call would be our mistake; the first model stays.
        let _ = self.loaded.set(Arc::new(loaded));
    }

    /// New requests are refused from now on; running ones go on.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The loaded model, whatever the engine's state.
    pub fn peek(&self) -> Option<Arc<Loaded>> {
        self.loaded.get().cloned()
    }

    /// The loaded model, if requests are taken now; they may be held for a while (paused, on the way
    /// to sleep or out of it, asleep where a request wakes the engine).
    ///
    /// # Errors
    /// 503 with the reason: loading (and how far), asleep, draining, failed.
    pub fn ready(&self) -> Result<Arc<Loaded>, ApiError> {
        if self.draining() {
            return Err(draining());
        }
        let Some(loaded) = self.peek() else {
            return Err(ApiError::unavailable(
                "model_loading",
                "the model is being opened",
            ));
        };
        let state = loaded.engine.subscribe().borrow().clone();
        match state {
            EngineState::Serving
            | EngineState::Paused
            | EngineState::Sleeping
            | EngineState::Waking
            | EngineState::Resizing => Ok(loaded),
            EngineState::Asleep => match loaded.engine.rest().admits() {
                Ok(()) => Ok(loaded),
                Err(refused) => Err(refusal(refused, "prompt")),
            },
            EngineState::Loading => {
                let progress = loaded.engine.progress();
                let message = format!(
                    "the model is loading ({}: {} of {} bytes)",
                    progress.stage, progress.done_bytes, progress.total_bytes
                );
                Err(ApiError::unavailable("model_loading", message))
            }
            EngineState::Draining | EngineState::Drained => Err(draining()),
            EngineState::Failed { message } => Err(ApiError::unavailable(
                "engine_failed",
                format!("the engine failed: {message}"),
            )),
        }
    }

    /// As [`App::ready`], and requests are computed, too, or wake the engine: a service should lead
    /// here.
    ///
    /// # Errors
    /// 503 with the reason.
    pub fn serving(&self) -> Result<Arc<Loaded>, ApiError> {
        let loaded = self.ready()?;
        let state = loaded.engine.subscribe().borrow().clone();
        let reachable = || loaded.engine.rest().reachable;
        let held = match state {
            EngineState::Sleeping | EngineState::Asleep | EngineState::Waking if reachable() => {
                return Ok(loaded);
            }
            EngineState::Paused => "paused",
            EngineState::Sleeping => "on its way to sleep",
            EngineState::Waking => "waking up",
            EngineState::Asleep => return Err(asleep()),
            EngineState::Serving | EngineState::Resizing if self.falls_asleep() => "about to sleep",
            EngineState::Serving if loaded.engine.rest().filling => {
                return Err(memory_pending());
            }
            EngineState::Serving | EngineState::Resizing if !self.has_adapters() => {
                let words = "adapters of the target are loaded first";
                return Err(ApiError::unavailable("adapters_loading", words));
            }
            EngineState::Loading
            | EngineState::Serving
            | EngineState::Resizing
            | EngineState::Draining
            | EngineState::Drained
            | EngineState::Failed { .. } => return Ok(loaded),
        };
        Err(ApiError::unavailable(
            "engine_paused",
            format!("the engine is {held}: requests are taken and held"),
        ))
    }

    /// A part of the KV cache was never taken yet.
    pub fn is_filling(&self) -> bool {
        self.peek()
            .is_some_and(|loaded| loaded.engine.rest().filling)
    }

    /// Those that the first target names were tried.
    pub fn has_adapters(&self) -> bool {
        let held = self.identity.target.get();
        held.is_none_or(|held| held.adapters(|wanted| wanted.has_begun()))
    }

    fn falls_asleep(&self) -> bool {
        let held = self.identity.target.get();
        held.is_some_and(Held::falls_asleep)
    }

    /// The loaded model for what needs its tokenizer only: weights may still load.
    ///
    /// # Errors
    /// 503 before the model is open.
    pub fn tokenizing(&self) -> Result<Arc<Loaded>, ApiError> {
        self.peek()
            .ok_or_else(|| ApiError::unavailable("model_loading", "the model is being opened"))
    }

    /// One that is about to be loaded is taken: requests wait for it.
    ///
    /// # Errors
    /// 404 that names the served models, or says why an adapter that the target lists is none of them.
    pub fn check_model(&self, asked: &str) -> Result<(), ApiError> {
        let refused = match self.check_slots(asked) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        match self.standing(asked) {
            Some(Standing::Loading) => Ok(()),
            Some(Standing::Refused(why)) => Err(ApiError::adapter_not_loaded(asked, &why)),
            // Loaded, and unloaded by hand since.
            Some(Standing::Loaded) | None => Err(refused),
        }
    }

    /// How an adapter stands that the target lists; None where it lists none of that name.
    pub fn standing(&self, name: &str) -> Option<Standing> {
        let held = self.identity.target.get()?;
        held.adapters(|wanted| wanted.standing(name).cloned())
    }

    /// # Errors
    /// 404 that names the served models.
    pub fn check_slots(&self, asked: &str) -> Result<(), ApiError> {
        let dynamic = self.dynamic();
        if self.served.iter().any(|name| name == asked) || dynamic.serves(asked) {
            return Ok(());
        }
        let adapters = dynamic.adapters.iter().filter(|of| !of.leaving);
        let served = self.served.iter().chain(adapters.map(|of| &of.name));
        let served: Vec<String> = served.cloned().collect();
        Err(ApiError::model_not_found(asked, &served))
    }

    /// What requests may choose beside the model itself.
    pub fn dynamic(&self) -> AdaptersInSlots {
        let loaded = self.peek();
        loaded.map_or_else(AdaptersInSlots::default, |loaded| loaded.engine.dynamic())
    }

    /// The adapter that a name means, if it is not the model's own.
    pub fn adapter_of(&self, model: &str) -> Option<Arc<str>> {
        let own = self.served.iter().any(|name| name == model);
        (!own).then(|| Arc::from(model))
    }

    /// Names of adapters beside the model's own.
    ///
    /// # Errors
    /// The one that is the model's.
    pub fn check_names<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> Result<(), String> {
        match names.find(|name| self.served.iter().any(|own| own == name)) {
            None => Ok(()),
            Some(name) => Err(format!(
                "adapter `{name}`: the model itself is called so; give it another name"
            )),
        }
    }

    /// The model that a request names; one that names none means the first, as with vLLM.
    ///
    /// # Errors
    /// As [`App::check_model`].
    pub fn model_of(&self, named: Option<String>) -> Result<String, ApiError> {
        let named = named.filter(|name| !name.is_empty());
        match (named, self.served.first()) {
            (None, Some(first)) => Ok(first.clone()),
            (named, _) => {
                let named = named.unwrap_or_default();
                self.check_model(&named).map(|()| named)
            }
        }
    }

    /// The memory report of this moment. Reads `/proc`: call it where blocking is allowed.
    pub fn report(&self) -> MemoryReport {
        let view = || {
            self.peek().map(|loaded| {
                let ledger = loaded.engine.memory();
                EngineView {
                    state: loaded.engine.subscribe().borrow().clone(),
                    rest: loaded.engine.rest(),
                    weight_version: loaded.engine.weights().version,
                    adapters: loaded.engine.adapters(),
                    dynamic: loaded.engine.dynamic(),
                    progress: loaded.engine.progress(),
                    effective: loaded.effective(&ledger),
                    ledger,
                }
            })
        };
        let mut report = report::build(&self.identity, view, self.draining(), &self.host);
        if let Some(over) = *lock(&self.waiting) {
            report.message = over.to_string();
            report.progress = Some(LoadProgress {
                stage: names::STAGE_WAITS_FOR_LIMIT.to_owned(),
                done_bytes: 0,
                total_bytes: 0,
            });
        }
        report
    }

    /// The engine is started once this is over.
    pub fn set_waiting(&self, over: Option<OverLimit>) {
        *lock(&self.waiting) = over;
    }

    /// The text that Prometheus reads. Reads `/proc`, as [`App::report`] does.
    pub fn scrape(&self) -> String {
        let engine = self.peek().map(|loaded| {
            let engine = &loaded.engine;
            EngineFigures {
                stats: engine.stats(),
                kv: engine.memory().kv,
                rest: engine.rest(),
                dynamic: engine.dynamic(),
            }
        });
        self.metrics.render(&Scrape {
            report: self.report(),
            engine,
        })
    }

    /// Aborts the answers of these names, or all; how many sequences that ended.
    pub fn abort(&self, engine: &dyn Generator, names: Option<&[String]>) -> usize {
        let ids: Option<Vec<u64>> =
            names.map(|names| names.iter().flat_map(|name| self.named.ids(name)).collect());
        engine.abort(ids.as_deref())
    }

    /// An id no live request has.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

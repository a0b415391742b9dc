//! The life of `serve`: listen, open the model, plan, start the engine, serve, drain, end.
//!
//! All ports answer from the first moment on (probes, metrics and reports say `Loading`), so a
//! slow load is seen and not killed. A failure ends the process with one line that says why.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::args::{EngineArgs, GenerationConfig, HttpArgs, ServeArgs};
use crate::chat::ChatTemplate;
use crate::config::{Settings, open_dynamic};
use crate::engine::Engine;
use crate::engine::config::EngineConfig;
use crate::engine::handle::EngineState;
use crate::engine::weights::WeightsInForce;
use crate::error::BootError;
use crate::http::adapters::{after_adapters, follow_adapters};
use crate::http::app::{App, HttpLimits, Loaded};
use crate::http::generator::Generator;
use crate::http::ports::Ports;
use crate::http::target::lead;
use crate::http::token::Token;
use crate::model::{Model, ModelFolder, SamplingDefaults};
use crate::opened;
use crate::report::Identity;
use crate::room;

/// This program, as the kernel knows it even after its file is gone.
const SELF: &str = "/proc/self/exe";
/// How often loading is logged.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// A failure is reported to whoever watches before the process ends.
const LAST_REPORT: Duration = Duration::from_millis(500);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// [`BootError`]: why it could not be served, or no longer.
pub async fn serve(args: ServeArgs) -> Result<(), BootError> {
    args.http.check().map_err(BootError::Flag)?;
    let settings = Settings::read(&args)?;
    let token = admin_token(&args.http)?;
    let mut signals = Signals::new()?;
    let app = Arc::new(app(&settings, &args.http));
    let ports = Ports::listen(&app, &args.http, token).await?;

    let boot = {
        let (app, engine) = (Arc::clone(&app), args.engine.clone());
        let generation = args.generation_config;
        let version = args.weight_version.clone();
        tokio::task::spawn_blocking(move || load(&app, &settings, &engine, generation, version))
    };
    let engine = tokio::select! {
        loaded = boot => loaded.map_err(std::io::Error::other)??,
        () = signals.terminate() => {
            tracing::info!("asked to end before the model was open");
            return Ok(());
        }
    };
    let outcome = run(&app, engine.as_ref(), &mut signals, args.http.drain_timeout).await;
    match outcome {
        Ok(()) => ports.finish().await,
        Err(_) => tokio::time::sleep(LAST_REPORT).await,
    }
    engine.stop();
    outcome
}

fn app(settings: &Settings, http: &HttpArgs) -> App {
    let limits = HttpLimits {
        body_bytes: usize::try_from(http.max_body_size.get()).unwrap_or(usize::MAX),
        connections: http.max_connections as usize,
        ..HttpLimits::default()
    };
    let identity = Identity {
        revision: settings.revision.clone(),
        backend: settings.backend,
        target: Arc::default(),
    };
    let root = settings.model.display().to_string();
    let mut app = App::new(settings.served.clone(), root, limits, identity);
    app.weights_roots.clone_from(&http.weights_root);
    app.adapter_roots.clone_from(&http.adapter_root);
    app
}

/// The bearer token; none is fine on loopback only.
fn admin_token(http: &HttpArgs) -> Result<Option<Token>, BootError> {
    let Some(path) = &http.admin_token_file else {
        if http.host.is_loopback() {
            return Ok(None);
        }
        return Err(BootError::Flag(format!(
            "--admin-token-file: missing; the admin port on {} needs a token (127.0.0.1 does not)",
            http.host
        )));
    };
    Token::file(path).map(Some).map_err(BootError::Flag)
}

/// Opens, plans, starts. Runs on a thread of its own: it reads files.
fn load(
    app: &App,
    settings: &Settings,
    args: &EngineArgs,
    generation: GenerationConfig,
    weight_version: String,
) -> Result<Arc<dyn Generator>, BootError> {
    let model = Arc::new(ModelFolder::open_with(&settings.model, &settings.adapters)?);
    let weight_version = WeightsInForce::named(weight_version, &model);
    opened::describe(&model, &settings.model);
    let dynamic = open_dynamic(&settings.dynamic, &model)?;
    app.check_names(dynamic.iter().map(|of| of.at.name.as_str()))
        .map_err(BootError::Flag)?;
    let planned = settings.plan(&model, &dynamic)?;
    let planned = room::hold(app, settings, planned)?;
    opened::describe_weights(&model, &planned);
    for rank in &planned.plan.ranks {
        tracing::info!(
            rank = rank.rank,
            budget_bytes = rank.budget.get(),
            planned_bytes = rank.total().get(),
            kv_heads = ?rank.shard.kv_heads,
            mlp_columns = ?rank.shard.mlp_columns,
            vocab_rows = ?rank.shard.vocab_rows,
            "planned"
        );
    }
    let tokenizer = model.tokenizer()?;
    for told in &model.told {
        tracing::warn!("{told}");
    }
    let template = ChatTemplate::load_confined(&model, &tokenizer, Path::new(SELF))?;
    if template.is_none() {
        tracing::warn!("the model has no chat template: /v1/chat/completions will refuse");
    }
    let config = EngineConfig {
        max_waiting: args.max_waiting,
        threads_per_rank: args.threads.map(usize::from),
        isa: args.isa.map(|isa| isa.name().to_owned()),
        prefix_cache: !args.no_prefix_cache,
        validation: settings.validation,
        weight_version,
        adapters: dynamic,
        ..EngineConfig::new(planned.request.clone())
    };
    let eos = model.eos_ids.clone();
    let sampling = sampling_defaults(&model, generation);
    let engine = Engine::start(config, model, planned.plan.clone())?;
    let facts = engine.facts().clone();
    tracing::info!(
        isa = facts.isa,
        products_of_blocks = ?facts.products,
        threads_per_rank = facts.threads_per_rank,
        ranks = facts.ranks,
        kv_tokens = planned.plan.kv_tokens,
        max_model_len = facts.max_model_len,
        "engine started, loading weights"
    );
    let engine: Arc<dyn Generator> = Arc::new(engine);
    let effective = planned.effective(Some(facts.isa), facts.products);
    let loaded = Loaded::new(
        Arc::clone(&engine),
        tokenizer,
        template,
        eos,
        sampling,
        effective,
    )?;
    app.set_loaded(loaded);
    Ok(engine)
}

/// The model's own values, unless they are not wanted.
fn sampling_defaults(model: &Model, generation: GenerationConfig) -> SamplingDefaults {
    if generation == GenerationConfig::Vllm {
        return SamplingDefaults::default();
    }
    for ignored in &model.sampling.ignored {
        tracing::warn!("{ignored}; OpenAI's default is used instead");
    }
    let defaults = model.sampling.defaults.clone();
    if defaults != SamplingDefaults::default() {
        tracing::info!(
            temperature = ?defaults.temperature,
            top_k = ?defaults.top_k,
            top_p = ?defaults.top_p,
            min_p = ?defaults.min_p,
            repetition_penalty = ?defaults.repetition_penalty,
            "requests that leave these out get the model's values (--generation-config vllm: OpenAI's)"
        );
    }
    defaults
}

/// From loading to the end of the drain.
async fn run(
    app: &Arc<App>,
    engine: &dyn Generator,
    signals: &mut Signals,
    drain_timeout: u64,
) -> Result<(), BootError> {
    let mut state = engine.subscribe();
    loaded(engine, &mut state, signals).await?;
    let reached = state.borrow().clone();
    match reached {
        EngineState::Loading => {
            // Nothing runs that could be finished, and reading on would be for nobody.
            tracing::info!("asked to end while the model was loading");
            app.set_draining();
            return Ok(());
        }
        EngineState::Serving
        | EngineState::Paused
        | EngineState::Sleeping
        | EngineState::Asleep
        | EngineState::Waking
        | EngineState::Resizing => {
            tracing::info!(served = app.served.join(", "), "requests are answered");
            if let Some(held) = app.identity.target.get() {
                lead(app, held);
                follow_adapters(app);
                held.first().inspect(|first| after_adapters(app, *first));
            }
            tokio::select! {
                () = signals.terminate() => {}
                message = failed(&mut state) => return Err(BootError::EngineFailed(message)),
                never = tell_when_whole(engine) => match never {},
            }
        }
        EngineState::Failed { message } => return Err(not_loaded(engine, &message)),
        EngineState::Draining | EngineState::Drained => {}
    }
    app.set_draining();
    engine.drain();
    let running = engine.stats();
    tracing::info!(
        running = running.running,
        waiting = running.waiting,
        "draining"
    );
    let started = Instant::now();
    let mut other = engine.subscribe();
    tokio::select! {
        _ = state.wait_for(|state| *state == EngineState::Drained) => {
            tracing::info!(seconds = started.elapsed().as_secs_f64(), "drained");
        }
        message = failed(&mut other) => {
            return Err(BootError::EngineFailed(message));
        }
        () = tokio::time::sleep(Duration::from_secs(drain_timeout)) => {
            let left = engine.stats();
            let left = left.running + left.waiting;
            tracing::warn!(left, drain_timeout, "drain timeout: the rest is aborted");
            engine.stop();
        }
        () = signals.terminate() => {
            tracing::warn!("asked a second time: running requests are aborted");
            engine.stop();
        }
    }
    Ok(())
}

/// Waits until the engine serves, or until a signal; logs how far it is.
async fn loaded(
    engine: &dyn Generator,
    state: &mut watch::Receiver<EngineState>,
    signals: &mut Signals,
) -> Result<(), BootError> {
    let started = Instant::now();
    loop {
        match &*state.borrow_and_update() {
            EngineState::Loading => {}
            EngineState::Failed { message } => return Err(not_loaded(engine, message)),
            EngineState::Serving
            | EngineState::Paused
            | EngineState::Sleeping
            | EngineState::Asleep
            | EngineState::Waking
            | EngineState::Resizing
            | EngineState::Draining
            | EngineState::Drained => {
                tracing::info!(seconds = started.elapsed().as_secs_f64(), "loaded");
                return Ok(());
            }
        }
        tokio::select! {
            _ = state.changed() => {}
            () = signals.terminate() => return Ok(()),
            () = tokio::time::sleep(PROGRESS_EVERY) => {
                let progress = engine.progress();
                tracing::info!(
                    stage = progress.stage,
                    done_bytes = progress.done_bytes,
                    total_bytes = progress.total_bytes,
                    "loading"
                );
            }
        }
    }
}

/// Of an engine that never served: an adapter may be why, which others than it can see to.
fn not_loaded(engine: &dyn Generator, message: &str) -> BootError {
    match engine.adapters().wrong.as_deref() == Some(message) {
        true => BootError::AdapterRefused(message.to_owned()),
        false => BootError::EngineFailed(message.to_owned()),
    }
}

/// Says when all of the memory is there.
async fn tell_when_whole(engine: &dyn Generator) -> Infallible {
    let mut state = engine.subscribe();
    while engine.rest().filling && state.changed().await.is_ok() {}
    if !engine.rest().filling {
        tracing::info!("ready");
    }
    std::future::pending().await
}

/// The message of a failure, whenever it comes.
async fn failed(state: &mut watch::Receiver<EngineState>) -> String {
    let is_failed = |state: &EngineState| matches!(state, EngineState::Failed { .. });
    match state.wait_for(is_failed).await.as_deref() {
        Ok(EngineState::Failed { message }) => message.clone(),
        _ => "the engine's thread is gone".into(),
    }
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> Result<Signals, BootError> {
        let term = signal(SignalKind::terminate())?;
        let int = signal(SignalKind::interrupt())?;
        Ok(Signals { term, int })
    }

    /// The next request to end.
    async fn terminate(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Leaves the last words where Kubernetes looks for them.
pub fn write_termination_message(path: Option<&Path>, message: &str) {
    const DEFAULT: &str = "/dev/termination-log";
    // What Kubernetes keeps; cut at a character.
    const MOST_BYTES: usize = 4096;
    let path = match path {
        Some(path) => path,
        None if Path::new(DEFAULT).is_file() => Path::new(DEFAULT),
        None => return,
    };
    let mut end = message.len().min(MOST_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    if let Err(error) = write_words(path, &message[..end]) {
        tracing::warn!(path = %path.display(), %error, "no termination message was written");
    }
}

/// Writes a message that somebody waits for to a file.
///
/// # Errors
/// Also for a pipe, whose reader would be waited for.
pub fn write_words(path: &Path, message: &str) -> io::Result<()> {
    let found = fs::metadata(path);
    if found.is_ok_and(|it| it.file_type().is_fifo()) {
        return Err(io::Error::other("is a pipe; name a regular file"));
    }
    fs::write(path, message)
}

//! A scripted engine and an app around it, for tests of the HTTP layer alone.

mod obeyed;
mod spoken;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use plimsoll_crds::v1alpha1::engine::Backend;
use plimsoll_kernels::linear::Products;
use plimsoll_planner::Dtype;
use tokio::sync::watch;

use super::app::{App, HttpLimits, Loaded};
use super::generator::Generator;
use super::unsent::Unsent;
use crate::adapters::{AdapterPath, Dynamic, Verdict};
use crate::chat::ChatTemplate;
use crate::engine::clock::IdlePolicy;
use crate::engine::control::Command;
use crate::engine::dynamic::AdaptersInSlots;
use crate::engine::handle::{EngineFacts, EngineState, Progress};
use crate::engine::request::{
    FinishReason, Finished, GenerateRequest, Refused, Timings, TokenEvent,
};
use crate::engine::rest::RestView;
use crate::engine::stats::EngineStats;
use crate::engine::weights::WeightsInForce;
use crate::memory::snapshot::LedgerSnapshot;
use crate::model::{ModelError, ModelFolder, Pushable, Replacement};
use crate::report::{Identity, tests::view};
use crate::tokenizer::Tokenizer;

pub(crate) const VOCABULARY: u32 = 515;
pub(crate) const CONTEXT: u32 = 512;
/// End of sequence of the fixture model.
pub(crate) const EOS: u32 = 2;

pub(crate) fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny-llama")
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(&fixture().join("tokenizer.json")).unwrap()
}

/// What the engine does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// Says this text and ends (with `Length` where max_tokens is shorter).
    Say(&'static str),
    /// As `Say`, but the last thing it says is that it failed.
    Fail(&'static str),
    /// Takes the request and says nothing; the test sends events itself.
    Hold,
    Refuse(Refused),
}

#[derive(Debug)]
struct Inner {
    script: Script,
    taken: Vec<GenerateRequest>,
    cancelled: Vec<u64>,
    /// Commands that came while draining: they are never carried out.
    commands: Vec<Command>,
    rest: RestView,
    policy: Option<IdlePolicy>,
    /// How often it was told that a request is about to come.
    rouses: usize,
    /// So many wakes fail.
    bad_wakes: u32,
    /// So many times who ends an update finds the queue full.
    full: u32,
    weights: WeightsInForce,
    dynamic: AdaptersInSlots,
    /// Commands that were carried out, in words.
    obeyed: Vec<String>,
}

/// An engine that follows a script.
#[derive(Debug)]
pub(crate) struct Scripted {
    inner: Mutex<Inner>,
    pub(crate) state: watch::Sender<EngineState>,
    /// Reads of adapters that are called so hang until they are let go.
    reads: (Mutex<bool>, Condvar),
}

impl Scripted {
    pub(crate) fn new(script: Script) -> Scripted {
        let inner = Inner {
            script,
            taken: Vec::new(),
            cancelled: Vec::new(),
            commands: Vec::new(),
            rest: RestView::default(),
            policy: None,
            rouses: 0,
            bad_wakes: 0,
            full: 0,
            weights: WeightsInForce {
                path: fixture(),
                ..WeightsInForce::default()
            },
            dynamic: AdaptersInSlots::default(),
            obeyed: Vec::new(),
        };
        Scripted {
            reads: Default::default(),
            inner: Mutex::new(inner),
            state: watch::Sender::new(EngineState::Serving),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn follow_script(&self, script: Script) {
        self.lock().script = script;
    }

    pub(crate) fn cancelled(&self) -> Vec<u64> {
        self.lock().cancelled.clone()
    }

    /// The requests taken so far, which lets go of their senders.
    pub(crate) fn take(&self) -> Vec<GenerateRequest> {
        std::mem::take(&mut self.lock().taken)
    }

    /// Commands that wait; dropping one answers it.
    pub(crate) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut self.lock().commands)
    }

    /// How many commands wait.
    pub(crate) fn commands(&self) -> usize {
        self.lock().commands.len()
    }

    /// Commands carried out since they were asked for last.
    pub(crate) fn told(&self) -> usize {
        self.lock().obeyed.len()
    }

    /// The engine ends an update by itself.
    pub(crate) fn end_update(&self) {
        self.lock().rest.updating = false;
    }

    /// Commands carried out since this was asked last.
    pub(crate) fn obeyed(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().obeyed)
    }

    /// The policy that it was told last.
    pub(crate) fn policy(&self) -> Option<IdlePolicy> {
        self.lock().policy
    }

    /// How often it was told that a request is about to come.
    pub(crate) fn rouses(&self) -> usize {
        self.lock().rouses
    }

    pub(crate) fn fail_wakes(&self, times: u32) {
        self.lock().bad_wakes = times;
    }

    pub(crate) fn fill(&self, times: u32) {
        self.lock().full = times;
    }

    /// What others see of its sleep.
    pub(crate) fn set_rest(&self, rest: RestView) {
        self.lock().rest = rest;
    }

    pub(crate) fn taken(&self) -> usize {
        self.lock().taken.len()
    }
}

pub(crate) fn finished(reason: FinishReason, prompt: usize, tokens: usize) -> TokenEvent {
    TokenEvent::Finished(Finished {
        reason,
        prompt_tokens: u32::try_from(prompt).unwrap(),
        cached_tokens: 1,
        completion_tokens: u32::try_from(tokens).unwrap(),
        preemptions: 0,
        timings: Timings {
            first_token: Some(Duration::from_millis(1)),
            ..Timings::default()
        },
        message: match reason {
            FinishReason::Error => Some("rank 1 died".into()),
            FinishReason::NotWoken => Some("the memory is taken".into()),
            FinishReason::NoAdapter => Some("its adapter was unloaded".into()),
            FinishReason::Stop | FinishReason::Length | FinishReason::Abort => None,
        },
    })
}

impl Scripted {
    pub(crate) fn let_go(&self) {
        let (let_go, changed) = &self.reads;
        *let_go.lock().unwrap() = true;
        changed.notify_all();
    }
}

impl Generator for Scripted {
    fn submit(&self, request: GenerateRequest) -> Result<(), Refused> {
        let mut inner = self.lock();
        match &inner.script {
            Script::Refuse(refused) => return Err(refused.clone()),
            Script::Say(text) => spoken::speak(&request, text, false),
            Script::Fail(text) => spoken::speak(&request, text, true),
            Script::Hold => {}
        }
        inner.taken.push(request);
        Ok(())
    }

    fn cancel(&self, id: u64) {
        self.lock().cancelled.push(id);
    }

    fn drain(&self) {
        self.state.send_replace(EngineState::Draining);
    }

    fn stop(&self) {
        self.state.send_replace(EngineState::Drained);
    }

    fn facts(&self) -> EngineFacts {
        EngineFacts {
            ranks: 1,
            max_model_len: CONTEXT,
            vocabulary: VOCABULARY,
            isa: "scalar".into(),
            products: Products::Exact,
            threads_per_rank: 1,
            check_patience: Duration::from_millis(300),
        }
    }

    fn subscribe(&self) -> watch::Receiver<EngineState> {
        self.state.subscribe()
    }

    fn progress(&self) -> Progress {
        Progress {
            stage: "LoadingWeights",
            done_bytes: 3,
            total_bytes: 7,
        }
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            running: self.taken(),
            ..EngineStats::default()
        }
    }

    fn memory(&self) -> LedgerSnapshot {
        view(EngineState::Serving).ledger
    }

    fn abort(&self, ids: Option<&[u64]>) -> usize {
        let mut inner = self.lock();
        let alive: Vec<u64> = inner.taken.iter().map(|request| request.id).collect();
        let due = |id: &u64| ids.is_none_or(|ids| ids.contains(id));
        let aborted: Vec<u64> = alive.into_iter().filter(due).collect();
        inner.cancelled.extend(&aborted);
        aborted.len()
    }

    fn rest(&self) -> RestView {
        self.lock().rest.clone()
    }

    fn follow(&self, policy: IdlePolicy) {
        self.lock().policy = Some(policy);
    }

    fn rouse(&self) {
        self.lock().rouses += 1;
    }

    fn adapters(&self) -> Verdict {
        Verdict::default()
    }

    fn dynamic(&self) -> AdaptersInSlots {
        self.lock().dynamic.clone()
    }

    fn open_adapter(&self, at: &AdapterPath) -> Result<Dynamic, ModelError> {
        if at.name.starts_with("hangs") {
            let (let_go, changed) = &self.reads;
            let held = let_go.lock().unwrap();
            drop(changed.wait_while(held, |let_go| !*let_go).unwrap());
        }
        ModelFolder::open(&fixture()).unwrap().open_adapter(at)
    }

    fn weights(&self) -> WeightsInForce {
        self.lock().weights.clone()
    }

    fn pushable(&self) -> &Pushable {
        static TINY: OnceLock<Pushable> = OnceLock::new();
        TINY.get_or_init(|| {
            Pushable::of(
                &ModelFolder::open(&fixture()).unwrap(),
                Dtype::Float32.into(),
            )
        })
    }

    fn open_weights(&self, path: &Path) -> Result<Replacement, ModelError> {
        let model = ModelFolder::open(&fixture()).unwrap();
        Replacement::open(path, &model)
    }
}

/// An app that serves the fixture model under the names `tiny` and `org/tiny`.
pub(crate) fn app(script: Script) -> (Arc<App>, Arc<Scripted>) {
    app_with(script, HttpLimits::default())
}

fn app_of(
    script: Script,
    limits: HttpLimits,
    change: impl FnOnce(&mut Loaded),
) -> (Arc<App>, Arc<Scripted>) {
    let app = empty_app(limits);
    let engine = Arc::new(Scripted::new(script));
    let model = ModelFolder::open(&fixture()).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let template = ChatTemplate::load(&model, &tokenizer).unwrap();
    let mut effective = view(EngineState::Serving).effective;
    effective.max_num_seqs = 8;
    let generator = Arc::clone(&engine) as Arc<dyn Generator>;
    let loaded = Loaded::new(
        generator,
        tokenizer,
        template,
        vec![EOS],
        model.sampling.defaults,
        effective,
    );
    let mut loaded = loaded.unwrap();
    change(&mut loaded);
    app.set_loaded(loaded);
    (app, engine)
}

/// An app whose answers may hold so many bytes until they are sent.
pub(crate) fn app_holding(script: Script, bytes: usize) -> (Arc<App>, Arc<Scripted>) {
    app_of(script, HttpLimits::default(), |loaded| {
        loaded.unsent = Unsent::new(bytes);
    })
}

/// An app whose model's publisher recommends so many tokens for an answer.
pub(crate) fn app_recommending(script: Script, tokens: u32) -> (Arc<App>, Arc<Scripted>) {
    app_of(script, HttpLimits::default(), |loaded| {
        loaded.sampling.max_new_tokens = Some(tokens);
    })
}

pub(crate) fn app_with(script: Script, limits: HttpLimits) -> (Arc<App>, Arc<Scripted>) {
    app_of(script, limits, |_| {})
}

/// An app before its model is open.
pub(crate) fn empty_app(limits: HttpLimits) -> Arc<App> {
    let identity = Identity {
        revision: "r1".into(),
        backend: Backend::Cpu,
        target: Arc::default(),
    };
    let served = vec!["tiny".to_owned(), "org/tiny".to_owned()];
    Arc::new(App::new(served, "/models/tiny".into(), limits, identity))
}

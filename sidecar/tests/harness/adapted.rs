//! Engines whose requests choose adapters.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_planner::AdapterSlots;
use plimsoll_sidecar::adapters::Dynamic;
use plimsoll_sidecar::engine::Engine;
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::model::{AdapterPath, Model};
use serde_json::Value;

use super::{Answer, Run, config, fixtures, plan, planner_request, request, wait_for};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

pub fn slots(slots: u32, rank: u32) -> AdapterSlots {
    AdapterSlots { slots, rank }
}

pub fn folder(adapter: &str) -> PathBuf {
    fixtures().join("adapters").join(adapter)
}

/// An adapter in a folder, under a name, with a scale of its own.
pub fn opened(model: &Model, name: &str, path: &Path, scale: f64) -> Arc<Dynamic> {
    let at = AdapterPath {
        name: name.to_owned(),
        path: path.to_owned(),
        scale: AdapterScale(scale),
    };
    Arc::new(model.open_adapter(&at).unwrap())
}

/// A fixture under its own name.
pub fn dynamic(model: &Model, adapter: &str) -> Arc<Dynamic> {
    opened(model, adapter, &folder(adapter), 1.0)
}

/// An engine that serves, with these from the start.
pub fn start_with(model: &Arc<Model>, run: &Run, adapters: &[Arc<Dynamic>]) -> EngineHandle {
    let asked = planner_request(model, run, vec![None; run.shards.len()]);
    let plan = plan(&asked, run);
    let mut config = config(run, asked);
    config.adapters = adapters.to_vec();
    let handle = Engine::start(config, Arc::clone(model), plan).unwrap();
    wait_for(&handle, |state| *state == EngineState::Serving);
    handle
}

/// Asks for greedy tokens of an adapter, or of the base, with logits.
pub fn ask_as(
    handle: &EngineHandle,
    id: u64,
    prompt: &[u32],
    max_tokens: u32,
    adapter: Option<&str>,
) -> Answer {
    let (mut request, events) = request(id, prompt, max_tokens);
    request.adapter = adapter.map(Arc::from);
    let (sink, logits) = mpsc::channel();
    handle.submit_with_logits(request, sink).unwrap();
    Answer { events, logits }
}

/// A copy of an adapter's folder that goes with the value.
#[derive(Debug)]
pub struct Copied(pub PathBuf);

impl Copied {
    pub fn of(adapter: &str) -> Copied {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-dynamic-{}-{count}", std::process::id());
        let to = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&to).unwrap();
        for file in [CONFIG, WEIGHTS] {
            std::fs::copy(folder(adapter).join(file), to.join(file)).unwrap();
        }
        Copied(to)
    }

    /// With another value of a field.
    pub fn with(self, field: &str, value: Value) -> Copied {
        let path = self.0.join(CONFIG);
        let mut fields: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        fields[field] = value;
        std::fs::write(path, fields.to_string()).unwrap();
        self
    }

    pub fn weights(&self) -> PathBuf {
        self.0.join(WEIGHTS)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! Adapters in a running engine: what PEFT says of each fixture, on one rank and on shards, and again
//! after a sleep of level 2 and after a reload.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use std::path::PathBuf;
use std::sync::Arc;

use harness::altered::Altered;
use harness::fixture::{Fixture, Prompt};
use harness::{Run, ask_ids, fixtures, split, start};
use plimsoll_planner::Bytes;
use plimsoll_sidecar::args::{MergeArgs, ValidationArg};
use plimsoll_sidecar::engine::control::{Commands, Woken};
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::engine::rest::PauseMode::{Abort, Keep};
use plimsoll_sidecar::engine::rest::{SleepLevel, Tags};
use plimsoll_sidecar::engine::weights::WeightsInForce;
use plimsoll_sidecar::merge;
use plimsoll_sidecar::model::{AdapterPath, Model, ModelFolder};

#[derive(serde::Deserialize)]
struct Expected {
    base: String,
    prompts: Vec<Prompt>,
}

fn adapter(name: &str) -> AdapterPath {
    AdapterPath {
        name: name.to_owned(),
        path: fixtures().join("adapters").join(name),
        scale: AdapterScale::ONE,
    }
}

fn model(base: &str, adapters: &[AdapterPath]) -> Arc<Model> {
    let folder = fixtures().join("models").join(base);
    Arc::new(ModelFolder::open_with(&folder, adapters).unwrap())
}

/// A model with its adapter, and what PEFT says of both.
fn fixture(name: &str) -> Fixture {
    let adapter = adapter(name);
    let text = std::fs::read_to_string(adapter.path.join("expected.json")).unwrap();
    let Expected { base, prompts } = serde_json::from_str(&text).unwrap();
    Fixture {
        name: name.to_owned(),
        model: model(&base, &[adapter]),
        prompts,
    }
}

/// Those that have prompts.
const ALL: [&str; 13] = [
    "plain",
    "rslora",
    "patterns",
    "layers",
    "bias",
    "dora",
    "embeddings",
    "saved",
    "tied",
    "tied-head",
    "tied-both",
    "fan-in",
    "tokens",
];

#[test]
fn logits_and_greedy_ids_are_pefts() {
    for name in ALL {
        let fixture = fixture(name);
        assert_eq!(fixture.prompts.len(), 2, "{name}");
        let handle = start(&fixture.model, &Run::whole(&fixture.model.shape));
        fixture.check_alone(&handle, "alone");
    }
}

#[test]
fn shards_of_any_split_hold_the_merged_weights() {
    for name in ALL {
        let fixture = fixture(name);
        let shape = &fixture.model.shape;
        for (ranks, lean) in [(2, [0; 3]), (3, [0, 1, 0])] {
            let run = Run {
                shards: split(shape, ranks, lean),
                ..Run::whole(shape)
            };
            let handle = start(&fixture.model, &run);
            fixture.check_alone(&handle, &format!("{:?}", run.shards));
        }
    }
}

/// Whoever reads the folder that `merge` writes gives PEFT's answers. (The base of `bias` is F16: its
/// file rounds what PEFT computed in f32.)
#[test]
fn a_merged_folder_answers_as_the_adapter_does() {
    let folder = std::env::temp_dir().join(format!("plimsoll-merged-{}", std::process::id()));
    for name in ALL.into_iter().filter(|name| *name != "bias") {
        let fixture = fixture(name);
        let args = MergeArgs {
            model: fixture.model.path.clone(),
            adapter: vec![adapter(name)],
            out: folder.clone(),
            adapter_validation: ValidationArg::Enforce,
            shard_size: Bytes::measured(300_000),
        };
        let written = merge::run(&args).unwrap();
        assert!(written.files > 1, "{written:?}");
        let merged = Fixture {
            model: Arc::new(ModelFolder::open(&folder).unwrap()),
            ..fixture
        };
        assert!(merged.model.adapters.is_empty());
        let handle = start(&merged.model, &Run::whole(&merged.model.shape));
        merged.check_alone(&handle, "merged");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

/// The sums of what a wake or a reload leaves are those of the load.
fn sums(handle: &EngineHandle) -> Vec<Vec<(String, u64)>> {
    let checks = handle.check_weights().wait().unwrap();
    checks.into_iter().map(|check| check.sums).collect()
}

#[test]
fn wakes_and_reloads_bring_the_merged_weights_back() {
    for name in ["plain", "dora", "tied", "saved"] {
        let fixture = fixture(name);
        let shape = &fixture.model.shape;
        let run = Run {
            shards: split(shape, 2, [0; 3]),
            ..Run::whole(shape)
        };
        let handle = start(&fixture.model, &run);
        let loaded = sums(&handle);
        for level in [SleepLevel::Two, SleepLevel::One] {
            assert_eq!(handle.sleep(level, Abort).wait(), Ok(()));
            assert_eq!(handle.wake(Tags::ALL).wait(), Ok(Woken { asleep: false }));
            assert_eq!(handle.rest().weights_verified, Some(true), "{name}");
            assert_eq!(sums(&handle), loaded, "{name} {level:?}");
        }
        let again = handle.open_weights(&handle.weights().path).unwrap();
        handle.update(Arc::new(again), None, Keep).wait().unwrap();
        assert_eq!(sums(&handle), loaded, "{name} reloaded");
        assert_eq!(handle.sleep(SleepLevel::Two, Abort).wait(), Ok(()));
        assert_eq!(handle.wake(Tags::ALL).wait(), Ok(Woken { asleep: false }));
        fixture.check_alone(&handle, "after all of it");
    }
}

/// Other weights would be served without the adapter: they are refused, and nothing changes.
#[test]
fn weights_that_come_without_the_adapter_are_refused() {
    let fixture = fixture("fan-in");
    let handle = start(&fixture.model, &Run::whole(&fixture.model.shape));
    let other = Altered::other();
    let error = handle.open_weights(other.path()).unwrap_err().to_string();
    assert!(
        error.contains("adapter `fan-in`: is merged into what is loaded"),
        "{error}"
    );
    let tensor = fixture.model.tensors.info("model.norm.weight").unwrap();
    let error = handle.pushable().check(tensor).unwrap_err().to_string();
    assert!(error.contains("plimsoll-sidecar merge"), "{error}");
    fixture.check_alone(&handle, "untouched");
}

/// A reload reads the adapter's files as they are by then; one that no longer fits changes nothing.
#[test]
fn a_reload_reads_the_adapter_again_and_refuses_one_that_is_gone() {
    let folder: PathBuf =
        std::env::temp_dir().join(format!("plimsoll-adapter-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let copy = |name: &str| {
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(adapter(name).path.join(file), folder.join(file)).unwrap();
        }
    };
    copy("fan-in");
    let at = AdapterPath {
        name: "moving".to_owned(),
        path: folder.clone(),
        scale: AdapterScale::ONE,
    };
    let run = |model: &Arc<Model>| start(model, &Run::whole(&model.shape));
    let prompt: Vec<u32> = (3..40).collect();
    let said = |handle: &EngineHandle| ask_ids(handle, 1, &prompt, 20).wait().ids;
    let loaded = model("tiny-llama", &[at]);
    let handle = run(&loaded);
    let named = WeightsInForce::named(WeightsInForce::DEFAULT_VERSION.to_owned(), &loaded);
    handle.name_weights(named.clone()).wait().unwrap();
    let (before, other) = (
        said(&handle),
        said(&run(&model("tiny-llama", &[adapter("plain")]))),
    );
    assert_ne!(before, other);
    copy("plain");
    let again = handle.open_weights(&handle.weights().path).unwrap();
    let digest = again.adapters[0].digest["sha256:".len()..][..8].to_owned();
    handle.update(Arc::new(again), None, Keep).wait().unwrap();
    assert_eq!(said(&handle), other);
    let now = handle.weights();
    assert_ne!(now.version, named);
    assert_eq!(now.version, format!("default+moving@{digest}"));
    assert_eq!(now.source_version, now.version);
    // One that would need another head than the engine has room for.
    copy("tied");
    let error = handle
        .open_weights(&handle.weights().path)
        .unwrap_err()
        .to_string();
    assert!(error.contains("tied"), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
    let error = handle
        .open_weights(&handle.weights().path)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no such file"), "{error}");
    assert_eq!(said(&handle), other);
}

#[test]
fn answers_name_the_adapters_they_come_from() {
    let default = || WeightsInForce::DEFAULT_VERSION.to_owned();
    let with = |names: &[&str]| {
        let adapters: Vec<AdapterPath> = names.iter().map(|name| adapter(name)).collect();
        model("tiny-llama", &adapters)
    };
    assert_eq!(WeightsInForce::named(default(), &with(&[])), "default");
    assert_eq!(
        WeightsInForce::named("7".to_owned(), &with(&["plain"])),
        "7"
    );
    let both = with(&["plain", "fan-in"]);
    let digits = |at: usize| both.adapters[at].digest["sha256:".len()..][..8].to_owned();
    let expected = format!("default+plain@{}+fan-in@{}", digits(0), digits(1));
    assert_eq!(WeightsInForce::named(default(), &both), expected);
    let long = |at: usize| AdapterPath {
        name: format!("{at}").repeat(120),
        ..adapter("plain")
    };
    let many = model("tiny-llama", &[long(1), long(2), long(3)]);
    let version = WeightsInForce::named(default(), &many);
    assert_eq!(version, format!("default@{}", many.digest));
}

//! Merged weights answer a probe as their base does with the same adapters unmerged, in every type and on
//! every split, as near as rounding lets them.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;

use harness::{Run, config, fixtures, plan, planner_request, split, wait_for};
use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_planner::{Dtype, KvDtype, Quantization};
use plimsoll_sidecar::adapters::{Apart, Compared, Validation};
use plimsoll_sidecar::engine::Engine;
use plimsoll_sidecar::engine::handle::EngineState;
use plimsoll_sidecar::model::{AdapterPath, Model, ModelFolder};

fn model(base: &str, names: &[&str]) -> Arc<Model> {
    let adapter = |name: &&str| AdapterPath {
        name: (*name).to_owned(),
        path: fixtures().join("adapters").join(name),
        scale: AdapterScale::ONE,
    };
    let adapters: Vec<AdapterPath> = names.iter().map(adapter).collect();
    let folder = fixtures().join("models").join(base);
    Arc::new(ModelFolder::open_with(&folder, &adapters).unwrap())
}

fn apart(model: &Arc<Model>, run: &Run) -> Apart {
    // What is told is told of answers that are too far apart, as well.
    let request = planner_request(model, run, vec![None; run.shards.len()]);
    let plan = plan(&request, run);
    let mut config = config(run, request);
    config.validation = Validation::Report;
    let handle = Engine::start(config, Arc::clone(model), plan).unwrap();
    wait_for(&handle, |state| *state == EngineState::Serving);
    let verdict = handle.adapters();
    match verdict.compared {
        Compared::Apart(apart) => apart,
        other => panic!("{other:?}"),
    }
}

/// Each adapter with what it is laid over, the most that it is apart, in roundings, and the most that it is
/// along the change.
const CASES: [&[&str]; 7] = [
    &["plain"],
    &["plain", "half"],
    &["brain"],
    &["fan-in"],
    &["rslora"],
    &["patterns"],
    &["layers"],
];

/// Bounds leave as much room again, and almost half for 4 bits, of which nothing finer is asked.
#[test]
fn answers_are_within_the_rounding_of_every_type_on_every_split() {
    const F32: (Dtype, KvDtype) = (Dtype::Float32, KvDtype::Float32);
    const BF16: (Dtype, KvDtype) = (Dtype::BFloat16, KvDtype::BFloat16);
    const F16: (Dtype, KvDtype) = (Dtype::Float16, KvDtype::Float16);
    const INTEGER_CACHE: (Dtype, KvDtype) = (Dtype::Float32, KvDtype::Int8);
    for names in CASES {
        let expected = fixtures()
            .join("adapters")
            .join(names[0])
            .join("expected.json");
        let expected = std::fs::read(expected).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let model = model(expected["base"].as_str().unwrap(), names);
        for (ranks, (dtype, kv_dtype), quantization) in [
            (1, F32, Quantization::Auto),
            (2, F32, Quantization::Auto),
            (1, F32, Quantization::Int8),
            (1, BF16, Quantization::Auto),
            (2, BF16, Quantization::Int8),
            (2, BF16, Quantization::Int4),
            (2, F16, Quantization::Auto),
            (1, INTEGER_CACHE, Quantization::Auto),
        ] {
            let run = Run {
                shards: split(&model.shape, ranks, [0; 3]),
                dtype,
                kv_dtype,
                quantization,
                ..Run::whole(&model.shape)
            };
            let apart = apart(&model, &run);
            let what = format!("{names:?} {ranks} {dtype} {kv_dtype:?} {quantization:?}");
            let what = format!("{what}: {apart:?}");
            assert!(apart.share <= 0.6 * apart.bound, "{what}");
            let off = (apart.along - 1.0).abs();
            assert!(off <= 0.3 * apart.along_bound, "{what}");
            assert!(apart.most > 0.0 && apart.most.is_finite(), "{what}");
            let is_fine = (dtype, kv_dtype, quantization) == (F32.0, F32.1, Quantization::Auto);
            assert!(!is_fine || apart.share < 5e-6, "{what}");
        }
    }
}

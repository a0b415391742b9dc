//! The examples do what their comments say: the planner splits the demo's model 1 + 2, and refuses
//! what is meant to be refused, with a way out that holds.
#![expect(
    clippy::unwrap_used,
    reason = "a test may end at what it did not expect"
)]

use std::path::Path;

use plimsoll_crds::v1alpha1::convert;
use plimsoll_crds::v1alpha1::facts::{
    Architecture, BlockFormat, Dtype, ModelFacts, ModelFormat, StoredBlocks, StoredLayers,
};
use plimsoll_crds::v1alpha1::{InferenceDeployment, quantity};
use plimsoll_planner::capacity::{cpu_capacity, cpu_memory_limit};
use plimsoll_planner::{Bytes, Request};
use serde_json::Value;

fn smollm2() -> ModelFacts {
    ModelFacts {
        architecture: Architecture::Llama,
        format: ModelFormat::Gguf,
        layers: 30,
        hidden_size: 576,
        query_heads: 9,
        kv_heads: 3,
        head_dim: 64,
        intermediate_size: 1536,
        vocabulary_size: 49_152,
        tied: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        context_length: 8192,
        file_dtype: "Q4_1".to_owned(),
        default_dtype: Dtype::BFloat16,
        quantization: Some("GGUF Q4_1".to_owned()),
        blocks: Some(StoredBlocks {
            embedding: Some(BlockFormat::Q8_0),
            head: None,
            layers: vec![StoredLayers {
                count: 30,
                qkv: Some(BlockFormat::Q4_1),
                output: Some(BlockFormat::Q4_1),
                gate_up: Some(BlockFormat::Q4_1),
                down: Some(BlockFormat::Q4_1),
                ..StoredLayers::default()
            }],
            order: None,
        }),
        weight_file_bytes: 98_362_432,
        parameters: 134_515_008,
        digest: "sha256:0".to_owned(),
        notes: Vec::new(),
        adapters: Vec::new(),
    }
}

fn example(name: &str) -> InferenceDeployment {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    let json: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    serde_json::from_value(json).unwrap()
}

/// What the operator asks the planner for an example.
fn request(name: &str) -> Request {
    let spec = example(name).spec;
    let request = convert::request(&spec, &smollm2()).unwrap();
    let limit = spec
        .template
        .and_then(|template| template.engine?.resources);
    let limit = limit.and_then(|resources| resources.limits.get("memory").cloned());
    let limit = limit.map(|limit| quantity::bytes(&limit.0).unwrap());
    let ranks = cpu_capacity(&request, limit).unwrap();
    Request { ranks, ..request }
}

#[test]
fn demo_divides_three_kv_heads_into_one_and_two() {
    let request = request("smollm2.yaml");
    let plan = plimsoll_planner::plan(&request).unwrap();
    let heads: Vec<u32> = plan
        .ranks
        .iter()
        .map(|rank| rank.shard.kv_head_count())
        .collect();
    assert_eq!(heads, [1, 2]);
    let budgets: Vec<Bytes> = plan.ranks.iter().map(|rank| rank.budget).collect();
    assert_eq!(
        budgets,
        [Bytes::measured(300 << 20), Bytes::measured(700 << 20)]
    );
    assert_eq!(
        plan.max_model_len, 8192,
        "the demo offers the model's whole context"
    );
    // Two replicas beside a cluster, on a machine of 8 GiB.
    let limit = cpu_memory_limit(&request).unwrap();
    assert!(limit < Bytes::measured(1500 << 20), "{limit}");
}

#[test]
fn other_examples_of_this_model_fit() {
    for name in [
        "one-rank.yaml",
        "host-path.yaml",
        "beside-a-container.yaml",
        "sleeping.yaml",
        "trainer.yaml",
        "idle.yaml",
        "offload.yaml",
    ] {
        let plan = plimsoll_planner::plan(&request(name));
        assert!(plan.is_ok(), "{name}: {}", plan.unwrap_err().message());
    }
}

#[test]
fn offload_example_fits_because_of_its_offload() {
    let with = request("offload.yaml");
    let plan = plimsoll_planner::plan(&with).unwrap();
    assert_eq!(plan.offload(&with)[0].layers, 28);
    let without = Request {
        cpu_offload: None,
        ..with
    };
    assert!(plimsoll_planner::plan(&without).is_err());
}

#[test]
fn sleeping_example_asks_for_a_sleep() {
    let sleep = example("sleeping.yaml").spec.sleep.unwrap();
    assert_eq!(sleep.asked(), Some(1));
    assert_eq!(example("one-rank.yaml").spec.sleep, None);
}

#[test]
fn idle_example_sleeps_by_its_clock_and_wakes_for_a_request() {
    let sleep = example("idle.yaml").spec.sleep.unwrap();
    assert_eq!((sleep.asked(), sleep.idle_seconds()), (None, Some(900)));
    assert!(sleep.wake_on_request);
}

#[test]
fn refused_example_is_refused_with_a_way_out() {
    let request = request("refused.yaml");
    let refusal = plimsoll_planner::plan(&request).unwrap_err();
    let message = refusal.message();
    assert!(
        message.len() <= plimsoll_crds::names::MESSAGE_CHARS,
        "{message}"
    );
    assert!(!refusal.remedies.is_empty(), "{message}");
    for remedy in &refusal.remedies {
        assert!(
            plimsoll_planner::plan(&remedy.apply(&request)).is_ok(),
            "{remedy:?}: {message}"
        );
    }
}

//! Which matrices stay in blocks: from facts to the planner and back, and in what an engine is started
//! with.
#![expect(
    clippy::unwrap_used,
    reason = "a test may end at what it did not expect"
)]
#![allow(dead_code, reason = "examples of documents that other tests use, too")]

mod told;

use plimsoll_crds::v1alpha1::boot::Boot;
use plimsoll_crds::v1alpha1::convert;
use plimsoll_crds::v1alpha1::facts::ModelFacts;
use plimsoll_crds::v1alpha1::model::{ComputeDtype, QuantizationMode, QuantizationSpec};
use plimsoll_crds::v1alpha1::spec::InferenceDeploymentSpec;
use plimsoll_planner::{BlockCompute, BlockFormat, LayerBlocks, ModelBlocks, Quantization};
use serde_json::json;
use told::boot;

fn facts() -> ModelFacts {
    serde_json::from_value(json!({
        "architecture": "Llama", "format": "GGUF", "layers": 30, "hiddenSize": 576,
        "queryHeads": 9, "kvHeads": 3, "headDim": 64, "intermediateSize": 1536,
        "vocabularySize": 49_152, "tied": true, "qkvBias": false, "outputBias": false,
        "mlpBias": false, "qkNorm": false, "contextLength": 8192, "fileDtype": "Q4_1",
        "defaultDtype": "BFloat16", "weightFileBytes": 1, "parameters": 1, "digest": "sha256:0",
    }))
    .unwrap()
}

fn spec() -> InferenceDeploymentSpec {
    serde_json::from_value(json!({"model": {"source": {}}})).unwrap()
}

#[test]
fn rows_of_alike_layers_are_the_layers_again() {
    let q4 = LayerBlocks {
        qkv: Some(BlockFormat::Q4_0),
        output: Some(BlockFormat::Q4_0),
        gate_up: Some(BlockFormat::Q4_1),
        down: None,
    };
    let q8 = LayerBlocks {
        down: Some(BlockFormat::Q8_0),
        ..q4
    };
    let mut layers = vec![q4; 30];
    layers[7] = q8;
    let blocks = ModelBlocks {
        embedding: Some(BlockFormat::Q8_0),
        head: None,
        layers,
    };
    let stored = convert::stored_blocks(&blocks);
    let rows = &stored.as_ref().unwrap().layers;
    let counts: Vec<u32> = rows.iter().map(|row| row.count).collect();
    assert_eq!(counts, [7, 1, 22]);
    let known = ModelFacts {
        blocks: stored,
        ..facts()
    };
    let mut spec = spec();
    let request = convert::request(&spec, &known).unwrap();
    assert_eq!(request.shape.blocks, blocks);
    assert_eq!(request.quantization, Quantization::Auto);
    spec.model.quantization.mode = QuantizationMode::None;
    let request = convert::request(&spec, &known).unwrap();
    assert_eq!(request.quantization, Quantization::None);
    assert_eq!(request.compute, BlockCompute::Auto);
    spec.model.quantization.compute_dtype = ComputeDtype::Int8;
    let request = convert::request(&spec, &known).unwrap();
    assert_eq!(request.compute, BlockCompute::Int8);
    let other = ModelFacts {
        layers: 31,
        ..known
    };
    let message = convert::request(&spec, &other).unwrap_err().to_string();
    assert_eq!(
        message,
        "model facts: blocks.layers has rows of 30 layers, the model has 31"
    );
    assert_eq!(convert::stored_blocks(&ModelBlocks::default()), None);
}

#[test]
fn facts_of_no_model_are_refused_before_anything_is_made_of_them() {
    let forged = |layers: u32, rows: usize| {
        let mut value = serde_json::to_value(facts()).unwrap();
        value["layers"] = layers.into();
        value["blocks"] = json!({"layers": vec![json!({"count": layers}); rows]});
        let known: ModelFacts = serde_json::from_value(value).unwrap();
        convert::request(&spec(), &known).unwrap_err().to_string()
    };
    for (layers, rows) in [(60_000_000, 1), (30, convert::STORED_ROWS_MAX + 1)] {
        let message = forged(layers, rows);
        assert!(message.contains("blocks.layers"), "{message}");
    }
}

#[test]
fn a_spec_that_asks_for_nothing_is_written_as_before() {
    let text = serde_json::to_string(&spec()).unwrap();
    assert!(!text.contains("quantization"), "{text}");
}

#[test]
fn a_mode_alone_is_written_as_before() {
    let expands = QuantizationSpec {
        mode: QuantizationMode::None,
        compute_dtype: ComputeDtype::Auto,
    };
    let text = serde_json::to_string(&expands).unwrap();
    assert_eq!(text, r#"{"mode":"None"}"#);
    let exact = json!({"computeDtype": "Exact"});
    let read: QuantizationSpec = serde_json::from_value(exact).unwrap();
    assert_eq!(read.compute_dtype, ComputeDtype::Exact);
}

#[test]
fn boot_documents_say_of_weights_in_blocks_only_what_is_asked_for() {
    let expanded = Boot {
        quantization: QuantizationMode::None,
        ..boot()
    };
    let exact = Boot {
        compute_dtype: ComputeDtype::Exact,
        ..boot()
    };
    for asked in [expanded, exact] {
        let text = serde_json::to_string(&asked).unwrap();
        assert_eq!(serde_json::from_str::<Boot>(&text).unwrap(), asked);
    }
    let text = serde_json::to_string(&boot()).unwrap();
    for field in ["quantization", "computeDtype"] {
        assert!(!text.contains(field), "engines from before refuse {field}");
    }
}

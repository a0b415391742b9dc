//! Which matrices stay in blocks: from facts to the planner and back, and in what an engine is started
//! with.
#![expect(
    clippy::unwrap_used,
    reason = "a test may end at what it did not expect"
)]
#![allow(dead_code, reason = "examples of documents that other tests use, too")]

mod told;

use plimsoll_crds::v1alpha1::boot::Boot;
use plimsoll_crds::v1alpha1::boot::BootQuantization;
use plimsoll_crds::v1alpha1::convert;
use plimsoll_crds::v1alpha1::facts::ModelFacts;
use plimsoll_crds::v1alpha1::model::{ComputeDtype, QuantizationMode, QuantizationSpec};
use plimsoll_crds::v1alpha1::spec::InferenceDeploymentSpec;
use plimsoll_planner::{
    BlockCompute, BlockFormat, LayerBlocks, LayerOrders, ModelBlocks, Order, Quantization,
};
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
        gate: Some(BlockFormat::Q4_1),
        up: Some(BlockFormat::Q4_1),
        down: None,
        ..LayerBlocks::uniform(Some(BlockFormat::Q4_0))
    };
    let q6 = LayerBlocks {
        value: Some(BlockFormat::Q6K),
        up: None,
        down: Some(BlockFormat::Q8_0),
        ..q4
    };
    let mut layers = vec![q4; 30];
    layers[7] = q6;
    layers[29] = q6;
    let blocks = ModelBlocks {
        embedding: Some(BlockFormat::Q8_0),
        head: None,
        layers,
    };
    let stored = convert::stored_blocks(&blocks);
    let told = stored.as_ref().unwrap();
    let counts: Vec<u32> = told.layers.iter().map(|row| row.count).collect();
    assert_eq!(counts, [28, 2]);
    assert_eq!(
        told.order.as_deref(),
        Some("AAAAAAABAAAAAAAAAAAAAAAAAAAAAB")
    );
    let row = serde_json::to_value(&told.layers[1]).unwrap();
    let expected = json!({
        "count": 2, "query": "Q4_0", "key": "Q4_0", "value": "Q6_K", "output": "Q4_0",
        "gate": "Q4_1", "down": "Q8_0",
    });
    assert_eq!(row, expected);
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
    for (asked, compute) in [
        (ComputeDtype::Int8, BlockCompute::Int8),
        (ComputeDtype::Int16, BlockCompute::Int16),
        (ComputeDtype::Exact, BlockCompute::Exact),
    ] {
        spec.model.quantization.compute_dtype = asked;
        let request = convert::request(&spec, &known).unwrap();
        assert_eq!(request.compute, compute);
    }
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

/// Rows name whose columns lie by a list: together where they share one, otherwise each.
#[test]
fn orders_of_columns_travel_as_names_in_the_rows() {
    let uniform = LayerBlocks::uniform(Some(BlockFormat::Q4_0));
    let (inputs, own, shared) = (Order::Inputs, Order::Own, Order::Shared);
    let layer = |qkv: [Order; 3], gate_up: [Order; 2], [output, down]: [Order; 2]| {
        let ([query, key, value], [gate, up]) = (qkv, gate_up);
        LayerBlocks {
            orders: LayerOrders {
                query,
                key,
                value,
                output,
                gate,
                up,
                down,
            },
            ..uniform
        }
    };
    let row = |more: serde_json::Value| {
        let mut row = json!({"count": 1, "output": "Q4_0", "down": "Q4_0"});
        let fields = more.as_object().unwrap().clone();
        row.as_object_mut().unwrap().extend(fields);
        row
    };
    let cases = [
        (
            layer([shared; 3], [shared; 2], [own; 2]),
            row(json!({
                "qkv": "Q4_0", "gateUp": "Q4_0", "listed": ["qkv", "output", "gateUp", "down"],
            })),
        ),
        (
            layer([own; 3], [own; 2], [inputs; 2]),
            row(json!({
                "query": "Q4_0", "key": "Q4_0", "value": "Q4_0", "gate": "Q4_0", "up": "Q4_0",
                "listed": ["query", "key", "value", "gate", "up"],
            })),
        ),
        (
            layer([inputs, own, inputs], [inputs; 2], [inputs, own]),
            row(json!({
                "query": "Q4_0", "key": "Q4_0", "value": "Q4_0", "gateUp": "Q4_0",
                "listed": ["key", "down"],
            })),
        ),
        (uniform, row(json!({"qkv": "Q4_0", "gateUp": "Q4_0"}))),
    ];
    let read = |rows: serde_json::Value| {
        let mut value = serde_json::to_value(facts()).unwrap();
        value["layers"] = rows.as_array().unwrap().len().into();
        value["blocks"] = json!({"layers": rows});
        let known: ModelFacts = serde_json::from_value(value).map_err(|e| e.to_string())?;
        let request = convert::request(&spec(), &known).map_err(|e| e.to_string())?;
        Ok::<_, String>(request.shape.blocks)
    };
    for (layer, row) in cases {
        let blocks = ModelBlocks {
            layers: vec![layer],
            ..ModelBlocks::default()
        };
        let stored = serde_json::to_value(convert::stored_blocks(&blocks)).unwrap();
        assert_eq!(stored["layers"], json!([row]));
        assert_eq!(read(json!([row])), Ok(blocks));
    }
    for listed in [
        json!({"qkv": "Q4_0", "listed": ["query"]}),
        json!({"qkv": "Q4_0", "listed": ["qkv", "qkv"]}),
        json!({"qkv": "Q4_0", "listed": ["up"]}),
    ] {
        let refused = read(json!([row(listed)])).unwrap_err();
        assert!(
            refused.contains("twice, or without blocks of it"),
            "{refused}"
        );
    }
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
fn rows_and_orders_that_contradict_themselves_are_refused() {
    let row = |count: u32, more: serde_json::Value| {
        let mut row = json!({"count": count, "down": "Q4_K"});
        row.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        row
    };
    let two = json!([row(10, json!({})), row(20, json!({"qkv": "Q4_K"}))]);
    let letters = |a: usize, b: usize| "AB".repeat(a) + &"B".repeat(b);
    let accepted = |layers: &serde_json::Value, order: Option<String>| {
        let mut value = serde_json::to_value(facts()).unwrap();
        value["blocks"] = json!({"layers": layers, "order": order});
        let known: ModelFacts = serde_json::from_value(value).unwrap();
        let request = convert::request(&spec(), &known);
        request
            .map(|request| request.shape.blocks.layers.len())
            .map_err(|e| e.to_string())
    };
    assert_eq!(accepted(&two, None), Ok(30));
    assert_eq!(accepted(&two, Some(letters(10, 10))), Ok(30));
    for order in [
        letters(10, 9),
        letters(11, 8),
        letters(10, 9) + "C",
        letters(10, 9) + "@",
    ] {
        let refused = accepted(&two, Some(order.clone())).unwrap_err();
        assert!(refused.contains("blocks.order"), "{order}: {refused}");
    }
    for more in [
        json!({"qkv": "Q4_K", "value": "Q6_K"}),
        json!({"gateUp": "Q4_K", "up": "Q6_K"}),
    ] {
        let refused = accepted(&json!([row(30, more)]), None).unwrap_err();
        assert!(refused.contains("beside"), "{refused}");
    }
}

/// A file may mix more than a termination message takes: the rarest layers are expanded then.
#[test]
fn of_too_many_kinds_of_layers_the_rarest_go_without_blocks() {
    let pick = |at: usize| Some(BlockFormat::ALL[at % BlockFormat::ALL.len()]);
    let kind = |at: usize| LayerBlocks {
        down: pick(at / 12),
        ..LayerBlocks::uniform(pick(at))
    };
    let mut layers: Vec<LayerBlocks> = (0..30).map(kind).collect();
    layers.extend([kind(29), kind(29), kind(28)]);
    let blocks = ModelBlocks {
        layers,
        ..ModelBlocks::default()
    };
    let fit = convert::fit_facts(blocks.clone());
    assert_eq!(fit.layers[30..], blocks.layers[30..]);
    assert_eq!(fit.layers[27], LayerBlocks::default());
    let rows = convert::stored_blocks(&fit).unwrap().layers.len();
    assert!((8..=convert::STORED_ROWS_MAX).contains(&rows), "{rows}");
    let few = ModelBlocks {
        layers: vec![kind(0), kind(1), kind(0)],
        ..ModelBlocks::default()
    };
    assert_eq!(convert::fit_facts(few.clone()), few);
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
        ..QuantizationSpec::default()
    };
    let text = serde_json::to_string(&expands).unwrap();
    assert_eq!(text, r#"{"mode":"None"}"#);
    let exact = json!({"computeDtype": "Exact"});
    let read: QuantizationSpec = serde_json::from_value(exact).unwrap();
    assert_eq!(read.compute_dtype, ComputeDtype::Exact);
}

/// Of the spec, by way of the boot document, to what an engine plans with.
#[test]
fn a_group_size_reaches_the_engine_and_one_that_the_mode_has_not_is_refused_by_name() {
    use QuantizationMode::{Auto, Int4, Int8, None as Expand};
    for (mode, group_size, planned) in [
        (Auto, None, Some(Quantization::Auto)),
        (Expand, None, Some(Quantization::None)),
        (Int8, None, Some(Quantization::Int8)),
        (Int8, Some(32), Some(Quantization::Int8)),
        (Int4, None, Some(Quantization::Int4)),
        (Int4, Some(32), Some(Quantization::Int4)),
        (Int4, Some(128), Some(Quantization::Int4By128)),
        (Int4, Some(64), None),
        (Int8, Some(128), None),
        (Auto, Some(32), None),
        (Expand, Some(128), None),
    ] {
        let mut spec = spec();
        spec.model.quantization = QuantizationSpec {
            mode,
            group_size,
            ..QuantizationSpec::default()
        };
        match (convert::request(&spec, &facts()), planned) {
            (Ok(request), Some(planned)) => {
                assert_eq!(request.quantization, planned);
                let told = BootQuantization::from(planned);
                let text = serde_json::to_string(&told).unwrap();
                let read: BootQuantization = serde_json::from_str(&text).unwrap();
                assert_eq!(Quantization::from(read), planned);
            }
            (Err(refused), None) => {
                let message = refused.to_string();
                let says = format!("groupSize: {} with mode {mode:?}", group_size.unwrap());
                assert!(message.contains(&says), "{message}");
                assert!(
                    message.contains("write mode Int4 with 32 or 128"),
                    "{message}"
                );
            }
            (found, _) => panic!("{mode:?} {group_size:?}: {found:?}"),
        }
    }
}

#[test]
fn boot_documents_say_of_weights_in_blocks_only_what_is_asked_for() {
    let expanded = Boot {
        quantization: BootQuantization::None,
        ..boot()
    };
    let long = Boot {
        quantization: BootQuantization::Int4By128,
        ..boot()
    };
    let exact = Boot {
        compute_dtype: ComputeDtype::Exact,
        ..boot()
    };
    for asked in [expanded, long, exact] {
        let text = serde_json::to_string(&asked).unwrap();
        assert_eq!(serde_json::from_str::<Boot>(&text).unwrap(), asked);
    }
    let text = serde_json::to_string(&boot()).unwrap();
    for field in ["quantization", "computeDtype"] {
        assert!(!text.contains(field), "engines from before refuse {field}");
    }
}

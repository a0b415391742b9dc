//! A GGUF base: its names and the order of its rows are a folder's, and what an adapter changes of
//! quantised weights is kept as floats unless a mode rounds it again.

use clap::Parser;
use plimsoll_planner::{BlockFormat, Dtype, Kept, LayerBlocks, LayerOrders, Order, Quantization};
use serde_json::json;

use super::edited::Edited;
use super::fixtures;
use super::merged::read_as;
use crate::args::{Cli, Command};
use crate::config::plan_flags;
use crate::model::{Model, ModelFolder, Pushable, Replacement};
use crate::weights::testing::TempFolder;

/// Matrices of rank 2 for these modules of every layer: the columns of A and the rows of B count up.
pub(crate) fn counting<const N: usize>(base: &Model, adapter: &mut Edited, modules: [&str; N]) {
    adapter.tensors.clear();
    let targets = modules.map(|module| module.split_once('.').unwrap().1);
    adapter.set("target_modules", json!(targets.to_vec()));
    for layer in 0..base.shape.layers {
        for module in modules {
            let module = format!("model.layers.{layer}.{module}");
            let weight = format!("{module}.weight");
            let (out, cols) = base.tensors.info(&weight).unwrap().rows_cols();
            for (part, shape) in [("lora_A", [2, cols]), ("lora_B", [out, 2])] {
                let key = format!("{module}.{part}.weight");
                adapter.add(&key, &shape);
                let bytes = adapter.tensor(&key).bytes.as_chunks_mut::<4>().0.iter_mut();
                let at = |at: usize| if part == "lora_A" { at % cols } else { at / 2 };
                bytes
                    .enumerate()
                    .for_each(|(i, to)| *to = (at(i) as f32 / 64.0).to_le_bytes());
            }
        }
    }
}

#[test]
fn a_gguf_base_takes_an_adapter_and_says_what_of_it_is_quantised() {
    let path = fixtures().join("positions/mixed-gguf/model.gguf");
    let base = ModelFolder::open(&path).unwrap();
    let mut adapter = Edited::of("plain");
    counting(&base, &mut adapter, ["self_attn.q_proj", "mlp.down_proj"]);
    let model = ModelFolder::open_with(&path, &[adapter.write()]).unwrap();
    let told = model
        .told
        .iter()
        .any(|told| told.contains("are quantised in the file"));
    assert!(told, "{:?}", model.told);
    let tensor = "model.layers.0.self_attn.q_proj.weight";
    for row in [0, 1, 7] {
        let of = |model: &Model| read_as(model, Dtype::Float32, tensor, row);
        for (col, (was, is)) in of(&base).iter().zip(of(&model)).enumerate() {
            // 8 / 2, times two products that are the same.
            let added = 8.0 * (row as f32 / 64.0) * (col as f32 / 64.0);
            assert!(
                (was + added - is).abs() <= 1e-6 * is.abs().max(1.0),
                "row {row}: {was} {is}"
            );
        }
    }
    // Its places are floats now, and the others' blocks still.
    let q4 = Some(BlockFormat::Q4_0);
    let of = |model: &Model| {
        let layer = model.shape.blocks.layers[0];
        (model.shape.blocks.embedding, layer)
    };
    let all = LayerBlocks::uniform(q4);
    assert_eq!(of(&base), (q4, all));
    let others = LayerBlocks {
        query: None,
        down: None,
        ..all
    };
    assert_eq!(of(&model), (q4, others));
}

fn packed(name: &str) -> TempFolder {
    let folder = TempFolder::new();
    for file in [
        &format!("packed/{name}/config.json"),
        &format!("packed/{name}/model.safetensors"),
        "models/tiny-llama/tokenizer.json",
    ] {
        let from = fixtures().join(file);
        let name = from.file_name().unwrap().to_str().unwrap();
        folder.write(name, std::fs::read(&from).unwrap());
    }
    folder
}

/// The same of a folder that is packed with zero points.
#[test]
fn what_an_adapter_changes_of_zero_points_is_kept_as_floats_and_the_rest_in_blocks() {
    let folder = packed("awq-4bit");
    let base = ModelFolder::open(folder.path()).unwrap();
    let mut adapter = Edited::of("plain");
    counting(&base, &mut adapter, ["self_attn.q_proj", "mlp.down_proj"]);
    let model = ModelFolder::open_with(folder.path(), &[adapter.write()]).unwrap();
    let others = LayerBlocks {
        query: None,
        down: None,
        ..LayerBlocks::uniform(Some(BlockFormat::Z4By32))
    };
    assert_eq!(model.shape.blocks.layers, [others]);
    let row = |model: &Model| {
        read_as(
            model,
            Dtype::Float32,
            "model.layers.0.self_attn.q_proj.weight",
            7,
        )
    };
    for (col, (was, is)) in row(&base).iter().zip(row(&model)).enumerate() {
        let added = 8.0 * (7.0 / 64.0) * (col as f32 / 64.0);
        assert!(
            (was + added - is).abs() <= 1e-6 * is.abs().max(1.0),
            "{was} {is}"
        );
    }
}

/// What is changed has its inputs' order, as floats have.
#[test]
fn what_an_adapter_changes_of_listed_columns_has_no_list_and_the_rest_keeps_its_own() {
    let folder = packed("gptq-4bit-act-order");
    let base = ModelFolder::open(folder.path()).unwrap();
    let mut adapter = Edited::of("plain");
    counting(&base, &mut adapter, ["self_attn.q_proj", "mlp.down_proj"]);
    let model = ModelFolder::open_with(folder.path(), &[adapter.write()]).unwrap();
    let all = base.shape.blocks.layers[0];
    assert_eq!(
        (all.orders.query, all.orders.down),
        (Order::Own, Order::Own)
    );
    let orders = LayerOrders {
        query: Order::Inputs,
        down: Order::Inputs,
        ..all.orders
    };
    let others = LayerBlocks {
        query: None,
        down: None,
        orders,
        ..all
    };
    assert_eq!(model.shape.blocks.layers, [others]);
    for (name, is_listed) in [
        ("self_attn.q", false),
        ("mlp.down", false),
        ("mlp.up", true),
    ] {
        let name = format!("model.layers.0.{name}_proj.weight");
        assert_eq!(model.tensors.order(&name).is_some(), is_listed, "{name}");
    }
}

/// No float of a file is bit for bit what blocks are expanded to.
#[test]
fn a_copy_of_a_table_that_is_kept_in_blocks_is_told_and_not_compared() {
    let path = fixtures().join("positions/mixed-gguf/model.gguf");
    let base = ModelFolder::open(&path).unwrap();
    let mut adapter = Edited::of("plain");
    counting(&base, &mut adapter, ["self_attn.q_proj", "mlp.down_proj"]);
    let table = base.tensors.info("model.embed_tokens.weight").unwrap();
    let shape = table.shape.clone();
    adapter.add("model.embed_tokens.base_layer.weight", &shape);
    let model = ModelFolder::open_with(&path, &[adapter.write()]).unwrap();
    let told = model.told.iter().find(|told| told.contains("was not"));
    let words = "adapter `tuned` carries a copy of model.embed_tokens.weight, which is Q4_0 here";
    assert!(told.unwrap().starts_with(words), "{:?}", model.told);
    // Its dimensions are looked at still.
    adapter.add(
        "model.embed_tokens.base_layer.weight",
        &[shape[0] + 1, shape[1]],
    );
    let error = ModelFolder::open_with(&path, &[adapter.write()]).unwrap_err();
    assert!(error.to_string().contains("the base's is"), "{error}");
}

/// The places of a running engine stay what they were when it started.
#[test]
fn a_reload_refuses_an_adapter_that_changes_what_is_kept_in_blocks() {
    let path = fixtures().join("positions/mixed-gguf/model.gguf");
    let base = ModelFolder::open(&path).unwrap();
    let mut adapter = Edited::of("plain");
    counting(&base, &mut adapter, ["self_attn.q_proj", "mlp.down_proj"]);
    let model = ModelFolder::open_with(&path, &[adapter.write()]).unwrap();
    let in_blocks = Kept {
        blocks: Some(&model.shape.blocks),
        ..Kept::from(Dtype::BFloat16)
    };
    let reload = |kept: Kept<'_>| {
        let opened = Replacement::open(&path, &model)?;
        Pushable::of(&model, kept).check_places(&*opened.tensors)
    };
    reload(in_blocks).unwrap();
    counting(&base, &mut adapter, ["self_attn.q_proj", "mlp.up_proj"]);
    adapter.write();
    let error = reload(in_blocks).unwrap_err().to_string();
    assert!(
        error.contains("mlp.up_proj.weight`: is kept in blocks of Q4_0"),
        "{error}"
    );
    // Where all places are of floats any change has one.
    reload(Dtype::BFloat16.into()).unwrap();
    // Fewer than there were is no harm: a place of floats takes expanded blocks.
    counting(&base, &mut adapter, ["self_attn.q_proj"]);
    adapter.write();
    reload(in_blocks).unwrap();
}

/// What does not fit as floats fits in the bits that a refusal names.
#[test]
fn a_quantised_base_that_an_adapter_makes_too_large_is_refused_with_the_mode_that_fits() {
    let path = fixtures().join("positions/mixed-gguf/model.gguf");
    let base = ModelFolder::open(&path).unwrap();
    let mut adapter = Edited::of("plain");
    let all = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    counting(&base, &mut adapter, all);
    let model = ModelFolder::open_with(&path, &[adapter.write()]).unwrap();
    let plan = |mode: &str, quota: u64| {
        let line = format!("x plan m --max-model-len 64 --quantization {mode} --quota 0={quota}");
        let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("not a plan")
        };
        plan_flags(&args.memory, &model)
    };
    let least = |mode: &str| {
        (1u64..)
            .find(|pages| plan(mode, pages << 16).is_ok())
            .unwrap()
            << 16
    };
    let [floats, eight, four] = ["auto", "int8", "int4"].map(least);
    assert!(floats > eight + (200 << 10) && eight > four + (100 << 10));
    for (quota, mode) in [(eight, Quantization::Int8), (four, Quantization::Int4)] {
        let refused = plan("auto", quota).unwrap_err().to_string();
        let words = format!("--quantization {}", mode.label().to_lowercase());
        assert!(refused.contains(&words), "{refused}");
    }
}

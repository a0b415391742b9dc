//! Adapters merged into quantised weights that are rounded again: answers are, to the bit, those of base
//! and adapter rounded once to the mode's blocks, in the bytes of these blocks; and figures say what that
//! takes, held against the base as the file has it.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "fixtures are small")]

mod harness;
mod requantised;

use std::sync::Arc;

use harness::compared::{answers, assert_same, bits, weights};
use harness::{Run, eventually, split, start, start_unloaded};
use plimsoll_planner::{BlockFormat, Dtype, Quantization};
use plimsoll_sidecar::adapters::Compared;
use plimsoll_sidecar::engine::control::Commands;
use plimsoll_sidecar::engine::handle::{EngineHandle, EngineState};
use plimsoll_sidecar::engine::rest::{PauseMode, SleepLevel, Tags};
use plimsoll_sidecar::model::{Model, ModelFolder};
use requantised::files::{Blocks, Drawn, Folder, gguf};
use requantised::{Counted, Expected, merged};

const ALL: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];
/// Leaves k, v, up and o in the blocks of the file: q lies with k and v only where it has their type.
const SOME: [&str; 3] = ["self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj"];

/// As Q4_K_M has them.
const K_BLOCKS: Blocks = |name| match name {
    "token_embd.weight" | "blk.0.attn_v.weight" | "blk.0.ffn_down.weight" => BlockFormat::Q6K,
    _ => BlockFormat::Q4K,
};
const FOUR_BITS: Blocks = |name| match name {
    "token_embd.weight" => BlockFormat::Q6K,
    _ => BlockFormat::Q4_0,
};
const EIGHT_BITS: Blocks = |name| match name {
    "token_embd.weight" => BlockFormat::Q6K,
    _ => BlockFormat::Q8_0,
};

fn run(model: &Model, quantization: Quantization) -> Run {
    Run {
        quantization,
        ..Run::whole(&model.shape)
    }
}

fn open(base: &Folder) -> Model {
    ModelFolder::open(&base.0).unwrap()
}

#[test]
fn answers_are_those_of_base_and_adapter_rounded_once_on_every_split_and_figures_say_what_it_takes()
{
    let bases: [(Folder, &[&str]); 6] = [
        (gguf(K_BLOCKS, true), &ALL),
        (gguf(FOUR_BITS, true), &SOME),
        (gguf(EIGHT_BITS, false), &SOME),
        (Folder::packed("gptq-4bit"), &SOME),
        (Folder::packed("awq-4bit"), &ALL),
        // What is rounded has its inputs' order.
        (Folder::packed("gptq-4bit-act-order"), &ALL),
    ];
    for (at, (base, modules)) in bases.iter().enumerate() {
        let adapter = Drawn::over(&open(base), modules, 0.3);
        let model = merged(&base.0, adapter.path());
        let shape = &model.shape;
        for (mode, most) in [
            (Quantization::Int8, 0.01),
            (Quantization::Int4, 0.12),
            (Quantization::Int4By128, 0.12),
        ] {
            let expected = Expected::of(&base.0, &adapter, mode);
            let counted = Counted::of(&expected.changed);
            assert!(counted.missed < most, "{at} {mode:?}: {counted:?}");
            for (ranks, lean) in [(1, [0; 3]), (2, [0, 1, 2]), (3, [0, 1, 0])] {
                let what = format!("{at}, {mode:?}, {ranks} ranks");
                let again = Run {
                    shards: split(shape, ranks, lean),
                    ..run(&model, mode)
                };
                let floats = Run {
                    quantization: Quantization::None,
                    ..again.clone()
                };
                let handle = start(&model, &again);
                let same = answers(&start(&expected.model, &floats));
                assert_same(&answers(&handle), &same, &what);
                let verdict = handle.adapters();
                let figures = verdict.adapters[0].figures;
                // Blocks of 128 that are cut are read by each rank that has a piece of them.
                let twice = mode == Quantization::Int4By128 && ranks > 1;
                let slack = if twice { 0.05 } else { 1e-6 };
                let near = |is: f64, meant: f64| (is - meant).abs() < slack * meant.max(1e-3);
                let numbers = match twice {
                    true => figures.numbers >= counted.numbers,
                    false => figures.numbers == counted.numbers,
                };
                let right = numbers
                    && figures.requantised == figures.numbers
                    && near(figures.changed_share(), counted.changed)
                    && near(figures.norm_ratio(), counted.norm_ratio)
                    && near(figures.lost(), counted.lost);
                assert!(right, "{what}: {figures:?}, {counted:?}");
                let Compared::Apart(apart) = verdict.compared else {
                    panic!("{what}: {:?}", verdict.compared)
                };
                assert!(apart.share < 0.6 * apart.bound, "{what}: {apart:?}");
                assert_eq!(verdict.wrong, None, "{what}");
            }
        }
    }
}

/// A file whose matrices are in the mode's blocks takes as many bytes as one that comes to them.
#[test]
fn changed_matrices_take_the_bytes_of_the_modes_blocks_and_sixteen_bits_without_a_mode() {
    let base = gguf(K_BLOCKS, true);
    let adapter = Drawn::over(&open(&base), &ALL, 0.3);
    let model = merged(&base.0, adapter.path());
    let bytes = |model: &Arc<Model>, quantization| {
        let kept = Run {
            dtype: Dtype::BFloat16,
            ..run(model, quantization)
        };
        weights(&start(model, &kept))
    };
    for (mode, blocks) in [
        (Quantization::Int4, FOUR_BITS),
        (Quantization::Int8, EIGHT_BITS),
    ] {
        let same = Arc::new(open(&gguf(blocks, true)));
        assert_eq!(bytes(&model, mode), bytes(&same, Quantization::Auto));
    }
    let matrices: u64 = 5 * 256 * 256 + 2 * 128 * 256;
    let more = bytes(&model, Quantization::Auto) - bytes(&model, Quantization::Int4);
    // 16 bits less 4.5, within what places are rounded up to.
    assert!(more.abs_diff(matrices * 23 / 16) < 8192, "{more}");
}

#[test]
fn requantised_weights_come_back_from_every_sleep_and_reload_and_take_no_push() {
    let base = gguf(K_BLOCKS, true);
    let mut adapter = Drawn::over(&open(&base), &ALL, 0.3);
    let model = merged(&base.0, adapter.path());
    let mode = Quantization::Int8;
    let handle = start(&model, &run(&model, mode));
    let sums = || handle.check_weights().wait().unwrap();
    let loaded = sums();
    for level in [SleepLevel::One, SleepLevel::Two] {
        assert_eq!(handle.sleep(level, PauseMode::Keep).wait(), Ok(()));
        assert!(handle.wake(Tags::ALL).wait().is_ok(), "{level:?}");
        assert_eq!(handle.rest().weights_verified, Some(true), "{level:?}");
        assert_eq!(sums(), loaded, "{level:?}");
    }
    let reload = || {
        let again = Arc::new(handle.open_weights(&base.0).unwrap());
        handle.update(again, None, PauseMode::Keep).wait().unwrap();
        handle.adapters().adapters[0].figures
    };
    let first = handle.adapters().adapters[0].figures;
    assert_eq!(reload(), first);
    assert_eq!(sums(), loaded);
    let tensor = model.tensors.info("model.norm.weight").unwrap();
    let error = handle.pushable().check(tensor).unwrap_err().to_string();
    assert!(error.contains("plimsoll-sidecar merge"), "{error}");
    // What it changes no more has a place of 8 bits still, and none in the blocks of the file.
    adapter.only(&SOME);
    assert!(reload().requantised < first.requantised);
    let mut meant = Expected::of(&base.0, &adapter, mode);
    for name in ALL.map(|module| format!("model.layers.0.{module}.weight")) {
        if adapter.of(&name).is_none() {
            meant = meant.rounded(&name, BlockFormat::Q8_0);
        }
    }
    let floats = run(&meant.model, Quantization::None);
    let expected = answers(&start(&meant.model, &floats));
    assert_same(&answers(&handle), &expected, "fewer matrices");
}

/// Of a hundredth nothing is left beside what four bits take; eight keep it, and floats.
#[test]
fn an_adapter_too_small_for_four_bits_is_refused_by_name_with_the_way_out() {
    for base in [gguf(K_BLOCKS, true), gguf(FOUR_BITS, true)] {
        let adapter = Drawn::over(&open(&base), &ALL, 0.02);
        let model = merged(&base.0, adapter.path());
        let handle = start_unloaded(&model, &run(&model, Quantization::Int4));
        let message = failure(&handle);
        for words in [
            "adapter `tuned`: rounding takes ",
            "are in blocks of the file that are rounded again",
            "--quantization int8 or auto",
            "spec.adapters[].mode: Dynamic",
        ] {
            assert!(message.contains(words), "{message}");
        }
        for mode in [Quantization::Int8, Quantization::Auto] {
            let handle = start(&model, &run(&model, mode));
            let bare = Arc::new(open(&base));
            let same = answers(&start(&bare, &run(&bare, mode)));
            assert!(bits(&answers(&handle)) != bits(&same), "{mode:?}");
            let figures = handle.adapters().adapters[0].figures;
            assert_eq!(figures.requantised > 0, mode == Quantization::Int8);
            assert!(figures.lost() < 0.7, "{mode:?} {figures:?}");
        }
    }
}

/// The head of a tied base becomes a table of its own, in the blocks of the mode; the embedding stays in the
/// file's.
#[test]
fn a_tied_quantised_head_that_an_adapter_unties_is_rounded_as_one_of_its_own() {
    let [tied, untied] = [true, false].map(|tied| gguf(K_BLOCKS, tied));
    let adapter = Drawn::over(&open(&tied), &["self_attn.q_proj", "lm_head"], 0.3);
    let model = merged(&tied.0, adapter.path());
    assert!(!model.shape.tied && open(&tied).shape.tied);
    assert_eq!(model.shape.blocks.embedding, Some(BlockFormat::Q6K));
    for mode in [Quantization::Int8, Quantization::Int4] {
        let expected = Expected::of(&untied.0, &adapter, mode);
        let counted = Counted::of(&expected.changed);
        let floats = run(&expected.model, Quantization::None);
        let expected = answers(&start(&expected.model, &floats));
        let handle = start(&model, &run(&model, mode));
        assert_same(&answers(&handle), &expected, mode.label());
        let figures = handle.adapters().adapters[0].figures;
        assert_eq!(figures.requantised, counted.numbers, "{mode:?}");
        assert!((figures.lost() - counted.lost).abs() < 1e-6, "{figures:?}");
    }
}

fn failure(handle: &EngineHandle) -> String {
    let is_failed = || matches!(handle.state(), EngineState::Failed { .. });
    eventually("a failure", is_failed);
    let EngineState::Failed { message } = handle.state() else {
        panic!("{:?}", handle.state());
    };
    message
}

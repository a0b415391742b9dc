//! Weights that are rounded to 8 or 4 bits at load: answers are, to the bit, those of the rounded numbers
//! as floats, in the bytes of the blocks, and stay so over sleeps, pushes, reloads and adapters.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;

use harness::altered::Altered;
use harness::blocks::{Choice, rounded, rounded_of, wide};
use harness::compared::{answers, assert_same, bits, weights};
use harness::sent::{file, send};
use harness::{Dice, Run, eventually, fixtures, open, split, start, start_unloaded};
use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_planner::{BlockFormat, Dtype, Quantization};
use plimsoll_sidecar::engine::control::Commands;
use plimsoll_sidecar::engine::handle::EngineState;
use plimsoll_sidecar::engine::rest::{PauseMode, SleepLevel, Tags};
use plimsoll_sidecar::model::{AdapterPath, Model, ModelFolder};

const FOUR_BITS: Choice = |name| match name.contains("layers") {
    true => Some(BlockFormat::Q4_0),
    false => Some(BlockFormat::Q8_0),
};
const MODES: [(Quantization, Choice); 2] = [
    (Quantization::Int8, |_| Some(BlockFormat::Q8_0)),
    (Quantization::Int4, FOUR_BITS),
];

fn fixture(name: &str) -> Arc<Model> {
    open(&fixtures().join("models").join(name))
}

fn run(model: &Model, quantization: Quantization) -> Run {
    Run {
        quantization,
        ..Run::whole(&model.shape)
    }
}

#[test]
fn answers_are_to_the_bit_those_of_the_rounded_floats_on_every_split() {
    for name in [
        "tiny-llama",
        "tiny-qwen3",
        "tiny-llama-untied-mha",
        "tiny-llama-bias",
    ] {
        let model = fixture(name);
        assert!(model.shape.blocks.is_empty());
        let shape = &model.shape;
        let two = split(shape, 2, [0, 1, 2]);
        let splits = [vec![plimsoll_planner::Shard::whole(shape)], two];
        for (mode, choice) in MODES {
            let floats = rounded(&fixtures().join("models").join(name), choice);
            for (shards, dtype) in splits.iter().zip([Dtype::Float32, Dtype::BFloat16]) {
                if shards.iter().any(|shard| shard.kv_heads.is_empty()) {
                    continue;
                }
                let kept = Run {
                    shards: shards.clone(),
                    dtype,
                    ..run(&model, mode)
                };
                let expanded = Run {
                    quantization: Quantization::None,
                    ..kept.clone()
                };
                let what = format!("{name}, {mode:?}, {dtype}, {} ranks", shards.len());
                let (kept, expanded) = (start(&model, &kept), start(&floats, &expanded));
                let (found, expected) = (answers(&kept), answers(&expanded));
                assert_same(&found, &expected, &what);
                let (less, more) = (weights(&kept), weights(&expanded));
                assert!(less * 3 < more * 2, "{what}: {less} of {more} bytes");
            }
            let unrounded = answers(&start(&model, &Run::whole(shape)));
            let found = answers(&start(&model, &run(&model, mode)));
            assert!(bits(&found) != bits(&unrounded), "{name}, {mode:?}");
        }
    }
}

const LONG: Choice = |name| match name.contains("layers") {
    true => Some(BlockFormat::Z4By128),
    false => Some(BlockFormat::Q8_0),
};

/// Ranks' columns begin inside of groups of 128: each rounds the whole group that it has a piece of.
#[test]
fn groups_of_128_are_the_same_numbers_on_every_split_in_fewer_bytes() {
    let folder = fixtures().join("models/tiny-qwen3");
    let drawn = || wide(&folder, |_| None, true);
    let model = Arc::new(drawn());
    let floats = rounded_of(drawn(), LONG);
    let mut bytes = Vec::new();
    for (ranks, lean) in [(1, [0; 3]), (2, [0, 1, 2]), (3, [0, 1, 0])] {
        for dtype in [Dtype::Float32, Dtype::BFloat16] {
            let kept = Run {
                shards: split(&model.shape, ranks, lean),
                dtype,
                ..run(&model, Quantization::Int4By128)
            };
            let expanded = Run {
                quantization: Quantization::None,
                ..kept.clone()
            };
            let short = Run {
                quantization: Quantization::Int4,
                ..kept.clone()
            };
            let what = format!("{dtype}, {ranks} ranks");
            let (kept, expanded) = (start(&model, &kept), start(&floats, &expanded));
            let found = answers(&kept);
            assert_same(&found, &answers(&expanded), &what);
            let short = start(&model, &short);
            assert!(bits(&found) != bits(&answers(&short)), "{what}");
            bytes.push((ranks, weights(&short), weights(&kept)));
        }
    }
    let shape = &model.shape;
    let layer = 256 * (256 + 2 * 64 + 256 + 3 * 768);
    let matrices = u64::from(shape.layers) * layer;
    for (ranks, short, long) in bytes {
        // 4.5 bits and 4.25, within what places are rounded up to; pieces of a group keep its head each.
        let less = matrices / 32;
        match ranks {
            1 => assert!(
                (short - long).abs_diff(less) < 8192,
                "{short} {long} {less}"
            ),
            _ => assert!(long < short, "{ranks} ranks: {long} of {short}"),
        }
    }
}

#[test]
fn rounded_weights_come_back_from_every_sleep_push_and_reload() {
    let model = fixture("tiny-qwen3");
    let long = Arc::new(wide(&fixtures().join("models/tiny-qwen3"), |_| None, true));
    let modes = MODES.map(|(mode, _)| (Arc::clone(&model), mode));
    let long = (long, Quantization::Int4By128);
    for (model, mode) in modes.into_iter().chain([long]) {
        let handle = start(&model, &run(&model, mode));
        let sums = || handle.check_weights().wait().unwrap();
        let (expected, loaded) = (answers(&handle), sums());
        for level in [SleepLevel::One, SleepLevel::Two] {
            assert_eq!(handle.sleep(level, PauseMode::Keep).wait(), Ok(()));
            assert!(handle.wake(Tags::ALL).wait().is_ok(), "{level:?}");
            assert_eq!(handle.rest().weights_verified, Some(true), "{level:?}");
            assert_same(&answers(&handle), &expected, &format!("{level:?}"));
        }
        // A trainer sends floats, in pieces of some rows.
        assert_eq!(handle.open_push(true, PauseMode::Keep).wait(), Ok(()));
        let needed = handle.pushable().needed().iter();
        let body = file(&*model.tensors, needed.map(String::as_str));
        assert_eq!(send(&handle, &body, &mut Dice(7)), Ok(()));
        let closed = handle.close_push(Some("2".to_owned())).wait();
        assert_eq!(closed.map(|updated| updated.version), Ok("2".to_owned()));
        assert_eq!(sums(), loaded, "{mode:?}");
        assert_same(&answers(&handle), &expected, "pushed");
        if mode == Quantization::Int4By128 {
            // What is drawn has no files.
            continue;
        }
        let again = Arc::new(handle.open_weights(&model.path).unwrap());
        handle.update(again, None, PauseMode::Keep).wait().unwrap();
        assert_eq!(sums(), loaded, "{mode:?}");
        assert_same(&answers(&handle), &expected, "read again");
    }
}

#[test]
fn a_number_that_no_block_has_ends_the_load_by_its_row() {
    for number in [f32::NAN, 500_000.0] {
        let wrong = Altered::of(number);
        let model = open(wrong.path());
        let handle = start_unloaded(&model, &run(&model, Quantization::Int4));
        eventually("a failure", || {
            matches!(handle.state(), EngineState::Failed { .. })
        });
        let EngineState::Failed { message } = handle.state() else {
            panic!("{:?}", handle.state());
        };
        assert!(message.contains("cannot be rounded to Q"), "{message}");
        assert!(message.contains("in row "), "{message}");
    }
}

/// What an adapter adds is looked at as it is kept: most of it is left in 8 bits, and of a hundredth of it
/// less than is let through in 4.
#[test]
fn adapters_are_proved_in_the_bits_that_they_are_merged_into() {
    let model = |scale: f64| {
        let adapter = AdapterPath {
            name: "plain".to_owned(),
            path: fixtures().join("adapters/plain"),
            scale: AdapterScale(scale),
        };
        let base = fixtures().join("models/tiny-llama");
        Arc::new(ModelFolder::open_with(&base, &[adapter]).unwrap())
    };
    let merged = model(1.0);
    let handle = start(&merged, &run(&merged, Quantization::Int8));
    let found = handle.adapters();
    let figures = found.adapters[0].figures;
    assert!(figures.changed_share() > 0.3, "{figures:?}");
    assert!(figures.lost() > 0.0 && figures.lost() < 0.7, "{figures:?}");
    let faint = model(0.01);
    let handle = start_unloaded(&faint, &run(&faint, Quantization::Int4));
    eventually("a failure", || {
        matches!(handle.state(), EngineState::Failed { .. })
    });
    let EngineState::Failed { message } = handle.state() else {
        panic!("{:?}", handle.state());
    };
    assert!(message.contains("rounding takes"), "{message}");
}

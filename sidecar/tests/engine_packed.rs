//! Hugging Face folders whose weights are packed: answers are, to the bit, those of the numbers that the
//! packed ones stand for, however the model is split; and integers stay in their bits.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use harness::compared::weights;
use harness::{Answered, Run, ask, fixtures, split, start};
use plimsoll_planner::{BlockFormat, Dtype, Quantization};
use plimsoll_sidecar::engine::control::Commands;
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::engine::rest::{PauseMode, SleepLevel, Tags};
use plimsoll_sidecar::model::{Model, ModelError, ModelFolder};
use plimsoll_sidecar::weights::{TensorInfo, TensorSource};

/// What a fixture's own reader says of it, as plain floats without blocks.
#[derive(Debug)]
struct Plain(Box<dyn TensorSource>);

impl TensorSource for Plain {
    fn names(&self) -> Vec<&str> {
        self.0.names()
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.0.info(name)
    }

    fn read_block(
        &self,
        name: &str,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ModelError> {
        self.0.read_block(name, rows, cols, out)
    }
}

/// A fixture with a tokenizer beside it; the files stay open when the folder goes.
fn open(name: &str) -> Model {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unique = format!("plimsoll-packed-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(unique);
    fs::create_dir(&folder).unwrap();
    let tokenizer = fixtures().join("models/tiny-llama/tokenizer.json");
    fs::copy(tokenizer, folder.join("tokenizer.json")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = fixtures().join("packed").join(name).join(file);
        fs::copy(from, folder.join(file)).unwrap();
    }
    let model = ModelFolder::open(&folder);
    fs::remove_dir_all(&folder).unwrap();
    model.unwrap()
}

/// Numbers of a fixture's packed matrices: q and o, k and v, gate, up and down.
const MATRICES: u64 = 2 * 128 * 64 + 2 * 64 * 64 + 3 * 160 * 64;

fn answer(handle: &EngineHandle) -> Answered {
    let prompt: Vec<u32> = (3..45).collect();
    ask(handle, 1, &prompt, 6).wait()
}

fn assert_same(answer: &Answered, expected: &Answered, what: &str) {
    assert_eq!(answer.ids.len(), 6, "{what}");
    assert_eq!(answer.ids, expected.ids, "{what}");
    let bits = |of: &Answered| -> Vec<u32> {
        let logits = of.logits.iter().flatten();
        logits.map(|logit| logit.to_bits()).collect()
    };
    assert_eq!(bits(answer), bits(expected), "{what}");
}

#[test]
fn answers_are_to_the_bit_those_of_the_same_weights_as_floats() {
    for (name, format) in [
        ("gptq-4bit", Some(BlockFormat::Q4_0)),
        ("gptq-4bit-act-order", None),
        ("gptq-4bit-zero-points", Some(BlockFormat::Z4By32)),
        ("awq-4bit", Some(BlockFormat::Z4By32)),
        ("ct-w4a16-zero-points", Some(BlockFormat::Z4By32)),
        ("ct-w8a8", Some(BlockFormat::Q8_0)),
        ("ct-fp8-block", None),
    ] {
        let model = Arc::new(open(name));
        assert_eq!(
            model.shape.blocks.formats(),
            Vec::from_iter(format),
            "{name}"
        );
        let mut plain = open(name);
        plain.tensors = Box::new(Plain(plain.tensors));
        plain.shape.blocks = plimsoll_planner::ModelBlocks::default();
        let plain = Arc::new(plain);
        for ranks in [1, 2] {
            let run = |dtype: Dtype| Run {
                shards: split(&model.shape, ranks, [0, 1, 2]),
                dtype,
                ..Run::whole(&model.shape)
            };
            for dtype in [Dtype::BFloat16, Dtype::Float32] {
                let what = format!("{name}, {dtype}, {ranks} ranks");
                let (floats, kept) = (start(&plain, &run(dtype)), start(&model, &run(dtype)));
                let expected = answer(&floats);
                assert_same(&answer(&kept), &expected, &what);
                let (less, more) = (weights(&kept), weights(&floats));
                let in_blocks = |format: BlockFormat| MATRICES / format.columns() * format.bytes();
                let saved = format.map_or(0, |of| MATRICES * dtype.bytes() - in_blocks(of));
                let pages = 4096 * (1 + ranks as u64);
                let what = format!("{what}: {less} of {more} bytes, without {saved}");
                assert!((less + saved).abs_diff(more) <= pages, "{what}");
                let expanded = Run {
                    quantization: Quantization::None,
                    ..run(dtype)
                };
                assert_same(&answer(&start(&model, &expanded)), &expected, &what);
            }
        }
    }
}

#[test]
fn packed_weights_come_back_from_every_sleep() {
    for name in ["gptq-4bit", "gptq-4bit-act-order", "awq-4bit"] {
        let model = Arc::new(open(name));
        let handle = start(&model, &Run::whole(&model.shape));
        let expected = answer(&handle);
        for level in [SleepLevel::One, SleepLevel::Two] {
            assert_eq!(handle.sleep(level, PauseMode::Keep).wait(), Ok(()));
            assert!(handle.wake(Tags::ALL).wait().is_ok(), "{name} {level:?}");
            assert_eq!(
                handle.rest().weights_verified,
                Some(true),
                "{name} {level:?}"
            );
            assert_same(&answer(&handle), &expected, &format!("{name} {level:?}"));
        }
    }
}

//! Hugging Face folders whose weights are packed: answers are, to the bit, those of the numbers that the
//! packed ones stand for, however the model is split; and integers stay in their bits.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "fixtures are small")]

mod harness;

use std::fs;
use std::ops::Range;
use std::path::Path;
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

/// A fixture with a tokenizer beside it, and its file changed by `change`, for as long as `used`; files that
/// are opened stay so when the folder goes.
fn with_folder<T>(name: &str, change: impl Fn(&mut [u8]), used: impl Fn(&Path) -> T) -> T {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let unique = format!("plimsoll-packed-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(unique);
    fs::create_dir(&folder).unwrap();
    let tokenizer = fixtures().join("models/tiny-llama/tokenizer.json");
    fs::copy(tokenizer, folder.join("tokenizer.json")).unwrap();
    let from = fixtures().join("packed").join(name);
    fs::copy(from.join("config.json"), folder.join("config.json")).unwrap();
    let mut file = fs::read(from.join("model.safetensors")).unwrap();
    change(&mut file);
    fs::write(folder.join("model.safetensors"), file).unwrap();
    let done = used(&folder);
    fs::remove_dir_all(&folder).unwrap();
    done
}

/// The same model without blocks.
fn plain(mut model: Model) -> Model {
    model.tensors = Box::new(Plain(model.tensors));
    model.shape.blocks = plimsoll_planner::ModelBlocks::default();
    model
}

fn open(name: &str) -> Model {
    with_folder(name, |_| (), |folder| ModelFolder::open(folder).unwrap())
}

/// The bytes of a tensor in a file of safetensors.
fn bytes_of<'a>(file: &'a mut [u8], tensor: &str) -> &'a mut [u8] {
    let (size, rest) = file.split_first_chunk_mut::<8>().unwrap();
    let (header, data) = rest.split_at_mut(u64::from_le_bytes(*size) as usize);
    let header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let [from, to] = [0, 1].map(|at| header[tensor]["data_offsets"][at].as_u64().unwrap() as usize);
    &mut data[from..to]
}

/// Numbers of a fixture's packed matrices.
fn packed_numbers(model: &Model) -> u64 {
    let names = model.tensors.names().into_iter();
    let packed = names.filter(|name| name.ends_with("_proj.weight"));
    let of = |name| {
        model
            .tensors
            .info(name)
            .unwrap()
            .shape
            .iter()
            .product::<usize>() as u64
    };
    packed.map(of).sum()
}

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
        ("gptq-4bit-zero-points", Some(BlockFormat::Z4By32)),
        ("gptq-4bit-128", Some(BlockFormat::Z4By128)),
        ("awq-4bit", Some(BlockFormat::Z4By32)),
        ("awq-4bit-128", Some(BlockFormat::Z4By128)),
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
        let plain = Arc::new(plain(open(name)));
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
                let numbers = packed_numbers(&model);
                let in_blocks = |format: BlockFormat| numbers / format.columns() * format.bytes();
                let saved = format.map_or(0, |of| numbers * dtype.bytes() - in_blocks(of));
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

/// The list of a matrix in a file of the fixture whose groups are of inputs that are apart.
fn list(of: &str) -> String {
    format!("model.layers.0.{of}_proj.g_idx")
}

/// As most files have it: what shares its inputs has one list.
fn share(file: &mut [u8]) {
    for (from, to) in [
        ("self_attn.q", "self_attn.k"),
        ("self_attn.q", "self_attn.v"),
        ("mlp.gate", "mlp.up"),
    ] {
        let first = bytes_of(file, &list(from)).to_vec();
        bytes_of(file, &list(to)).copy_from_slice(&first);
    }
}

/// Groups of inputs that are apart lie together, so products are summed in another order: what floats
/// answer, within their rounding. Ranks that share the columns of o and down have those as floats.
#[test]
fn groups_that_are_apart_stay_in_their_bits_and_answer_as_their_floats() {
    let name = "gptq-4bit-act-order";
    // q, k, v, gate and up.
    let of_two = 128 * 64 + 2 * 64 * 64 + 2 * 160 * 64;
    for shared in [false, true] {
        let change = |file: &mut [u8]| {
            if shared {
                share(file)
            }
        };
        let opened = || with_folder(name, change, |at| ModelFolder::open(at).unwrap());
        let model = Arc::new(opened());
        let layer = model.shape.blocks.layer(0);
        assert_eq!((layer.fuses_qkv(), layer.fuses_gate_up()), (shared, shared));
        let plain = Arc::new(plain(opened()));
        for (ranks, numbers) in [(1, packed_numbers(&model)), (2, of_two)] {
            for (dtype, rounding) in [(Dtype::Float32, 2e-6), (Dtype::BFloat16, 4e-3)] {
                let run = Run {
                    shards: split(&model.shape, ranks, [0, 1, 2]),
                    dtype,
                    ..Run::whole(&model.shape)
                };
                let what = format!("{ranks} ranks, {dtype}, shared {shared}");
                let (floats, kept) = (start(&plain, &run), start(&model, &run));
                let (expected, answer) = (answer(&floats), answer(&kept));
                assert_eq!(answer.ids, expected.ids, "{what}");
                let logits = answer.logits.iter().flatten();
                let pairs = logits.zip(expected.logits.iter().flatten());
                let apart = pairs.fold((0f32, 0f32), |(most, largest), (is, was)| {
                    (most.max((is - was).abs()), largest.max(was.abs()))
                });
                assert!(apart.0 <= rounding * apart.1, "{what}: {apart:?}");
                let format = BlockFormat::Q4_0;
                let in_blocks = numbers / format.columns() * format.bytes();
                let saved = numbers * dtype.bytes() - in_blocks;
                let (less, more) = (weights(&kept), weights(&floats));
                // Lists, of some kilobytes, and pages.
                let pages = 4096 * (2 + u64::from(ranks));
                let what = format!("{what}: {less} of {more} bytes, without {saved}");
                assert!((less + saved).abs_diff(more) <= pages, "{what}");
            }
        }
    }
}

/// Lists come with the weights; which matrices have one, and which share one, is the engine's.
#[test]
fn other_lists_replace_those_of_a_running_engine_where_they_are() {
    let name = "gptq-4bit-act-order";
    let swapped = |file: &mut [u8]| {
        share(file);
        // Two inputs of other groups change places.
        for of in ["self_attn.q", "self_attn.k", "self_attn.v", "mlp.down"] {
            let groups = bytes_of(file, &list(of)).as_chunks_mut::<4>().0;
            let other = groups.iter().position(|group| *group != groups[0]);
            groups.swap(0, other.unwrap());
        }
    };
    let open = |change: fn(&mut [u8])| {
        let opened = with_folder(name, change, |at| ModelFolder::open(at).unwrap());
        Arc::new(opened)
    };
    let model = open(share);
    let handle = start(&model, &Run::whole(&model.shape));
    let before = answer(&handle);
    let other = open(swapped);
    let expected = answer(&start(&other, &Run::whole(&other.shape)));
    assert_ne!(before.logits, expected.logits, "lists without a say");
    for (weights, change) in [(&expected, swapped as fn(&mut [u8])), (&before, share)] {
        let opened = with_folder(name, change, |at| handle.open_weights(at).unwrap());
        let updated = handle.update(Arc::new(opened), None, PauseMode::Keep);
        updated.wait().unwrap();
        assert_same(&answer(&handle), weights, "updated");
    }
    let refused: [fn(&mut [u8]); 2] = [
        // k has a list of its own.
        |file| {
            share(file);
            bytes_of(file, &list("self_attn.k"))
                .as_chunks_mut::<4>()
                .0
                .reverse();
        },
        // down has its inputs' order.
        |file| {
            share(file);
            let groups = bytes_of(file, &list("mlp.down")).as_chunks_mut::<4>().0;
            groups.sort_unstable();
        },
    ];
    for change in refused {
        let refused = with_folder(name, change, |at| handle.open_weights(at).unwrap_err());
        let words = "layer 0: groups of columns (g_idx)";
        assert!(refused.to_string().contains(words), "{refused}");
    }
}

/// Zero points are numbers of a file as any: others of the same blocks take their places, with what a wake
/// proves; what would be expanded does not, nor do floats that are sent.
#[test]
fn other_zero_points_replace_those_of_a_running_engine_in_its_blocks_only() {
    let name = "ct-w4a16-zero-points";
    let other = |file: &mut [u8]| {
        let zeros = bytes_of(file, "model.layers.0.mlp.up_proj.weight_zero_point");
        zeros.iter_mut().for_each(|byte| *byte ^= 0x11);
    };
    let model = Arc::new(open(name));
    let handle = start(&model, &Run::whole(&model.shape));
    let before = answer(&handle);
    let started = with_folder(name, other, |at| ModelFolder::open(at).unwrap());
    let started = Arc::new(started);
    let expected = answer(&start(&started, &Run::whole(&started.shape)));
    assert_ne!(before.logits, expected.logits, "zero points without a say");
    let weights = with_folder(name, other, |at| handle.open_weights(at).unwrap());
    let updated = handle.update(Arc::new(weights), None, PauseMode::Keep);
    updated.wait().unwrap();
    assert_same(&answer(&handle), &expected, "updated");
    for level in [SleepLevel::One, SleepLevel::Two] {
        assert_eq!(handle.sleep(level, PauseMode::Keep).wait(), Ok(()));
        assert!(handle.wake(Tags::ALL).wait().is_ok(), "{level:?}");
        assert_same(&answer(&handle), &expected, &format!("{level:?}"));
    }
    // 2^-30 is no f16: its matrix would be expanded.
    let smaller = |file: &mut [u8]| {
        let scales = bytes_of(file, "model.layers.0.mlp.down_proj.weight_scale");
        scales[..2].copy_from_slice(&[0x80, 0x30]);
    };
    let refused = with_folder(name, smaller, |at| handle.open_weights(at).unwrap_err());
    let words = "mlp.down_proj.weight`: is kept in blocks of Z4_32";
    assert!(refused.to_string().contains(words), "{refused}");
    let sent = TensorInfo {
        dtype: "F32".to_owned(),
        ..model
            .tensors
            .info("model.layers.0.mlp.up_proj.weight")
            .unwrap()
            .clone()
    };
    let refused = handle.pushable().check(&sent).unwrap_err().to_string();
    assert!(
        refused.contains("(Z4_32), which no F32 can replace"),
        "{refused}"
    );
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

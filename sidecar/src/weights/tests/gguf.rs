//! GGUF files: headers, types, names, row order.

use half::f16;
use proptest::prelude::*;

use crate::weights::TensorSource;
use crate::weights::gguf::GgufFile;
use crate::weights::testing::{Gguf, TempFolder};

fn opened(bytes: &[u8]) -> Result<GgufFile, String> {
    let folder = TempFolder::new();
    let path = folder.write("model.gguf", bytes);
    GgufFile::open(&path, &mut |_| ()).map_err(|e| e.to_string())
}

fn good() -> Gguf {
    Gguf::new()
        .text("general.architecture", "llama")
        .number("llama.block_count", 1)
        .float("llama.rope.freq_base", 1e4)
        .texts("tokenizer.ggml.tokens", &["a", "b"])
        .numbers("tokenizer.ggml.token_type", &[1, 3])
        .tensor("token_embd.weight", &[2, 4])
        .tensor("blk.0.attn_q.weight", &[8, 3])
}

#[track_caller]
fn refused(gguf: &Gguf, expected: &str) {
    refused_bytes(&gguf.bytes(), expected);
}

#[track_caller]
fn refused_bytes(bytes: &[u8], expected: &str) {
    let message = opened(bytes).unwrap_err();
    assert!(message.starts_with("model.gguf: "), "{message}");
    assert!(message.contains(expected), "{message}");
    assert!(message.len() < 600, "{message}");
}

#[test]
fn a_good_file_is_read() {
    let mut file = opened(&good().bytes()).unwrap();
    assert_eq!(
        file.metadata.string("general.architecture").unwrap(),
        Some("llama")
    );
    assert_eq!(
        file.metadata.float("llama.rope.freq_base").unwrap(),
        Some(1e4)
    );
    assert_eq!(
        file.metadata.integers("tokenizer.ggml.token_type").unwrap(),
        Some(vec![1, 3])
    );
    let names = [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ];
    assert_eq!(file.tensors.names(), names);
    let mut row = [0.0; 4];
    file.tensors.read_rows(names[0], 1..2, &mut row).unwrap();
    assert_eq!(row, [4.0, 5.0, 6.0, 7.0]);
}

#[test]
fn q_and_k_rows_are_put_back_for_llama() {
    let mut file = opened(&good().bytes()).unwrap();
    let rows = |file: &GgufFile| {
        let mut out = [0.0; 8];
        let name = "model.layers.0.self_attn.q_proj.weight";
        file.tensors.read_block(name, 0..8, 0..1, &mut out).unwrap();
        out.map(|first| first / 3.0)
    };
    assert_eq!(rows(&file), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    file.tensors.interleave_q_and_k(4);
    assert_eq!(rows(&file), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
}

#[test]
fn quantised_tensors_are_decoded() {
    let mut block = f16::from_f32(0.5).to_le_bytes().to_vec();
    block.extend((0..32u8).map(|i| i.wrapping_sub(16)));
    let two_rows = [block.clone(), block].concat();
    let file = opened(
        &Gguf::new()
            .tensor_of("output.weight", &[2, 32], 8, &two_rows)
            .bytes(),
    );
    let file = file.unwrap();
    let info = file.tensors.info("lm_head.weight").unwrap();
    assert_eq!(
        (info.dtype.as_str(), info.bytes, info.shape.clone()),
        ("Q8_0", 68, vec![2, 32])
    );
    let mut out = [0.0; 3];
    file.tensors
        .read_block("lm_head.weight", 1..2, 15..18, &mut out)
        .unwrap();
    assert_eq!(out, [-0.5, 0.0, 0.5]);
}

#[test]
fn other_files_and_versions_are_refused() {
    refused(
        &Gguf {
            magic: *b"GGML",
            ..good()
        },
        "instead of `GGUF`",
    );
    refused(
        &Gguf {
            version: 2,
            ..good()
        },
        "GGUF version 2, only version 3",
    );
    refused(
        &Gguf {
            version: 4,
            ..good()
        },
        "GGUF version 4",
    );
    refused(
        &Gguf {
            version: 3u32.swap_bytes(),
            ..good()
        },
        "big-endian",
    );
    refused_bytes(b"", "cut off");
    refused_bytes(b"GG", "cut off");
}

#[test]
fn absurd_counts_are_refused_without_allocating() {
    refused(
        &Gguf {
            pair_count: Some(u64::MAX),
            ..good()
        },
        "metadata pairs, at most",
    );
    refused(
        &Gguf {
            pair_count: Some(60_000),
            ..good()
        },
        "metadata pairs: 60000",
    );
    refused(
        &Gguf {
            tensor_count: Some(u64::MAX),
            ..good()
        },
        "tensors, at most",
    );
    refused(
        &Gguf {
            tensor_count: Some(60_000),
            ..good()
        },
        "tensors: 60000",
    );
    let long = u64::MAX.to_le_bytes();
    refused(
        &Gguf::new().pair("k", 8, &long),
        "k: 18446744073709551615 at offset",
    );
    let list = [&4u32.to_le_bytes()[..], &(1u64 << 40).to_le_bytes()].concat();
    refused(
        &Gguf::new().pair("k", 9, &list),
        "need at least 4 bytes each",
    );
}

#[test]
fn lists_are_bounded_together() {
    // 17 million bytes of file would become 136 million in memory.
    let count = (1 << 24) + 1;
    let list = [
        &0u32.to_le_bytes()[..],
        &(count as u64).to_le_bytes(),
        &vec![0; count],
    ]
    .concat();
    refused(
        &Gguf::new().pair("k", 9, &list),
        "lists may have 16777216 elements together",
    );
}

#[test]
fn every_cut_is_noticed() {
    let bytes = good().bytes();
    for length in 0..bytes.len() {
        assert!(opened(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
    assert!(opened(&bytes).is_ok());
}

#[test]
fn wrong_types_are_refused() {
    refused(
        &Gguf::new().pair("k", 13, &[0; 8]),
        "metadata `k` has the unknown type 13",
    );
    refused(&Gguf::new().pair("k", 7, &[2]), "a bool of 2");
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[0; 16]].concat();
    refused(&Gguf::new().pair("k", 9, &nested), "lists of lists");
    let unknown = [&99u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[0; 16]].concat();
    refused(
        &Gguf::new().pair("k", 9, &unknown),
        "a list of the unknown type 99",
    );
    let not_text = [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat();
    refused(&Gguf::new().pair("k", 8, &not_text), "k: not UTF-8");
    refused(
        &good().number("llama.block_count", 2),
        "metadata `llama.block_count` is given twice",
    );
}

#[test]
fn wrong_tensors_are_refused() {
    let with = |name: &str, shape: &[u64], kind: u32, offset: u64| {
        Gguf::new().described(name, shape, kind, offset).data(4096)
    };
    refused(&with("t", &[], 0, 0), "tensor `t`: 0 dimensions");
    refused(&with("t", &[1, 1, 1, 1, 1], 0, 0), "5 dimensions");
    refused(
        &with("t", &[0, 4], 0, 0),
        "dimensions [0, 4] are not possible",
    );
    refused(&with("t", &[u64::MAX, 2], 0, 0), "are not possible");
    refused(&with("t", &[1 << 40, 1 << 40], 0, 0), "are not possible");
    refused(
        &with("t", &[32], 99, 0),
        "tensor `t`: unknown tensor type 99",
    );
    refused(
        &with("t", &[33, 2], 8, 0),
        "rows of 33 numbers are no multiple of the 32",
    );
    refused(&with("t", &[64], 8, 0), "a vector stored as Q8_0");
    refused(
        &with("t", &[4], 0, 5),
        "offset 5 is no multiple of the alignment 32",
    );
    refused(
        &with("t", &[2000], 0, 0),
        "8000 bytes at offset 0 of the data reach beyond",
    );
    refused(&with("t", &[4], 0, 4096), "reach beyond");
    refused(&with("t", &[4], 0, u64::MAX - 31), "reach beyond");
    let twice = with("t", &[4], 0, 0).described("t", &[4], 0, 32);
    refused(&twice, "tensor `t` is given twice");
    let overlapping = with("t", &[16], 0, 0).described("u", &[4], 0, 32);
    refused(
        &overlapping,
        "tensor `u`: offset 32 overlaps the tensor before it, which ends at 64",
    );
}

#[test]
fn types_that_are_not_read_are_refused_by_name() {
    for (kind, name) in [(15, "Q8_K"), (18, "IQ3_XXS"), (21, "IQ3_S"), (39, "MXFP4")] {
        let gguf = Gguf::new()
            .described("blk.0.ffn_up.weight", &[256, 2], kind, 0)
            .data(4096);
        let folder = TempFolder::new();
        let path = folder.write("model.gguf", gguf.bytes());
        let error = GgufFile::open(&path, &mut |_| ()).unwrap_err();
        assert_eq!(error.reason(), "UnsupportedFormat");
        let expected = format!("tensor `blk.0.ffn_up.weight` is {name}; read are F32, F16, BF16");
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

#[test]
fn alignment_is_checked() {
    let of = |alignment: u32| {
        Gguf::new()
            .number("general.alignment", alignment)
            .tensor("t", &[4])
    };
    assert!(opened(&of(32).bytes()).is_ok());
    refused(&of(0), "`general.alignment` is 0");
    refused(&of(48), "`general.alignment` is 48");
    refused(&of(1 << 20), "expected a power of two up to 65536");
}

#[test]
fn the_digest_covers_the_header_and_no_data() {
    let digest = |bytes: &[u8]| {
        let folder = TempFolder::new();
        let path = folder.write("model.gguf", bytes);
        let mut seen = Vec::new();
        GgufFile::open(&path, &mut |part| seen.extend_from_slice(part)).unwrap();
        seen
    };
    let bytes = good().bytes();
    let seen = digest(&bytes);
    assert!(bytes.starts_with(&seen) && seen.len() < bytes.len());
    let mut other_data = bytes.clone();
    *other_data.last_mut().unwrap() ^= 1;
    assert_eq!(digest(&other_data), seen);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        let _ = opened(&bytes);
        let _ = opened(&[b"GGUF\x03\0\0\0", &bytes[..]].concat());
    }

    #[test]
    fn damaged_headers_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let mut bytes = good().bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(file) = opened(&bytes) {
            for name in file.tensors.names() {
                let info = file.tensors.info(name).unwrap();
                let (rows, cols) = info.rows_cols();
                let mut out = vec![0.0; rows * cols];
                let _ = file.tensors.read_rows(name, 0..rows, &mut out);
            }
        }
    }
}

//! Safetensors that arrive in pieces of any length: the same numbers as in a file, or a refusal.

use proptest::prelude::*;

use crate::weights::TensorSource;
use crate::weights::encoding::Encoding;
use crate::weights::piece::Piece;
use crate::weights::stream::{HEADER_BYTES_MAX, PIECE_BYTES, SafetensorsStream, Step};
use crate::weights::testing::{safetensors, safetensors_of};

/// Names of the header, and the pieces.
type Streamed = (Vec<String>, Vec<Piece>);

/// Feeds `bytes` in chunks that end at `cuts`.
fn streamed(bytes: &[u8], announced: bool, cuts: &[usize]) -> Result<Streamed, String> {
    let mut stream = SafetensorsStream::new(announced.then_some(bytes.len() as u64));
    let (mut names, mut pieces) = (Vec::new(), Vec::new());
    let mut start = 0;
    for end in cuts.iter().copied().chain([bytes.len()]) {
        let end = end.clamp(start, bytes.len());
        let mut chunk = &bytes[start..end];
        loop {
            match stream.feed(&mut chunk).map_err(|error| error.to_string())? {
                Step::HeaderBegins(length) => assert!(length as u64 <= HEADER_BYTES_MAX),
                Step::Tensors(infos) => names = infos.iter().map(|i| i.name.clone()).collect(),
                Step::Piece(piece) => {
                    assert!(piece.bytes() <= stream.piece_bytes());
                    pieces.push(piece);
                }
                Step::Taken => break,
            }
        }
        assert!(chunk.is_empty());
        start = end;
    }
    stream.end().map_err(|error| error.to_string())?;
    Ok((names, pieces))
}

/// The numbers of a tensor of all pieces.
fn numbers(pieces: &[Piece], name: &str) -> Vec<f32> {
    let of = pieces.iter().filter(|piece| piece.tensor().name == name);
    let mut row = 0;
    let mut all = Vec::new();
    for piece in of {
        assert_eq!(piece.rows().start, row, "pieces come in order");
        row = piece.rows().end;
        let cols = piece.tensor().rows_cols().1;
        let mut out = vec![0.0; piece.rows().len() * cols];
        let rows = piece.rows().clone();
        piece.read_block(name, rows, 0..cols, &mut out).unwrap();
        all.extend(out);
    }
    all
}

fn counts(count: usize) -> Vec<f32> {
    (0..count).map(|at| at as f32).collect()
}

#[test]
fn a_file_cut_anywhere_gives_the_same_numbers() {
    let bytes = safetensors(&[("a", &[2, 3]), ("none", &[0, 7]), ("b", &[4])]);
    for announced in [false, true] {
        for first in 0..=bytes.len() {
            for second in [first, first + 1, first + 9] {
                let (names, pieces) = streamed(&bytes, announced, &[first, second]).unwrap();
                assert_eq!(names, ["a", "none", "b"]);
                assert_eq!(numbers(&pieces, "a"), counts(6), "{first} {second}");
                assert_eq!(numbers(&pieces, "b"), counts(4), "{first} {second}");
            }
        }
        let every: Vec<usize> = (0..bytes.len()).collect();
        let (_, pieces) = streamed(&bytes, announced, &every).unwrap();
        assert_eq!(numbers(&pieces, "b"), counts(4));
    }
}

#[test]
fn large_tensors_come_in_pieces_of_whole_rows_and_long_rows_one_by_one() {
    let (rows, cols) = (4_000, 257);
    let bytes = safetensors(&[("wide", &[2, 600_000]), ("tall", &[rows, cols])]);
    let (_, pieces) = streamed(&bytes, true, &[100_000, 3_000_000]).unwrap();
    let (wide, tall): (Vec<&Piece>, Vec<&Piece>) = pieces
        .iter()
        .partition(|piece| piece.tensor().name == "wide");
    assert_eq!(wide.len(), 2);
    assert!(tall.len() > 1);
    for piece in &tall[..tall.len() - 1] {
        assert!(piece.bytes() <= PIECE_BYTES && piece.rows().len().is_multiple_of(16));
    }
    assert_eq!(numbers(&pieces, "tall"), counts(rows * cols));
    assert_eq!(numbers(&pieces, "wide"), counts(1_200_000));
}

#[test]
fn what_is_no_safetensors_is_refused_with_the_reason() {
    let whole = safetensors(&[("a", &[2, 3]), ("b", &[4])]);
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let after = [&whole[..], &[0]].concat();
    let huge = u64::MAX.to_le_bytes().to_vec();
    let wide = (HEADER_BYTES_MAX + 1).to_le_bytes().to_vec();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "0 of 8 bytes"),
        (whole[..7].to_vec(), "7 of 8 bytes"),
        (whole[..20].to_vec(), "of its header"),
        (
            whole[..whole.len() - 1].to_vec(),
            "15 of 16 bytes of the tensor `b`",
        ),
        (
            whole[..whole.len() - 16].to_vec(),
            "0 of 16 bytes of the tensor `b`",
        ),
        (after, "goes on for 1 bytes"),
        (huge, "begins with a header of 18446744073709551615 bytes"),
        (wide, "send fewer tensors"),
        (safetensors_of("{", 0), "not valid"),
        (safetensors_of("[]", 0), "not valid"),
        (safetensors_of("{}", 1), "goes on"),
        (safetensors_of(r#"{"a": 1}"#, 0), "expected dtype, shape"),
        (
            safetensors_of(&tensor("F32", "[2]", "[0,4]"), 4),
            "does not take the 4 bytes",
        ),
        (
            safetensors_of(&tensor("F32", "[1]", "[4,8]"), 8),
            "leaves a hole",
        ),
        (safetensors_of(&tensor("F32", "[1]", "[8,4]"), 8), "outside"),
        (
            safetensors_of(&tensor("F99", "[1]", "[0,4]"), 4),
            "unknown dtype",
        ),
        (
            safetensors_of(&tensor("I32", "[1]", "[0,4]"), 4),
            "`a` is I32",
        ),
        (
            safetensors_of(&tensor("F32", "[4611686018427387904,4]", "[0,0]"), 0),
            "does not take",
        ),
        (
            safetensors_of(
                &tensor("F32", "[1]", "[18446744073709551612,18446744073709551616]"),
                4,
            ),
            "expected dtype",
        ),
        (
            safetensors_of(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                    "b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
            "overlaps",
        ),
        (
            safetensors_of(
                r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                    "a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
                8,
            ),
            "given twice",
        ),
    ];
    for (bytes, expected) in cases {
        let refused = streamed(&bytes, false, &[3]).unwrap_err();
        assert!(refused.contains(expected), "{expected}: {refused}");
        assert!(refused.len() < 600, "{refused}");
        // One that says how much comes is refused no later.
        assert!(streamed(&bytes, true, &[3]).is_err(), "{expected}");
    }
}

#[test]
fn numbers_that_are_none_are_found_with_their_row() {
    use plimsoll_planner::Dtype;
    let whole = safetensors(&[("a", &[700, 5])]);
    for (at, number, dtype) in [
        (0, f32::NAN, Dtype::Float32),
        (3_499, f32::INFINITY, Dtype::BFloat16),
        (1_777, f32::NEG_INFINITY, Dtype::Float16),
        (6, 70_000.0, Dtype::Float16),
        (6, f32::MAX, Dtype::BFloat16),
    ] {
        let mut bytes = whole.clone();
        let start = bytes.len() - 3_500 * 4 + at * 4;
        bytes[start..start + 4].copy_from_slice(&number.to_le_bytes());
        let (_, pieces) = streamed(&bytes, true, &[]).unwrap();
        let found: Vec<_> = pieces
            .iter()
            .filter_map(|p| p.wrong_number(Encoding::of(dtype)))
            .collect();
        assert_eq!(found.len(), 1, "{number}");
        assert_eq!(found[0].0, at / 5, "{number}");
    }
    let (_, pieces) = streamed(&whole, true, &[]).unwrap();
    for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
        assert!(
            pieces
                .iter()
                .all(|piece| piece.wrong_number(Encoding::of(dtype)).is_none())
        );
    }
}

proptest! {
    /// Whatever comes, in whatever chunks: an answer, and never more held than was promised.
    #[test]
    fn no_bytes_make_it_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        cuts in proptest::collection::vec(0usize..200, 0..5),
        announced: bool,
        length in 0u64..100,
    ) {
        let mut cuts = cuts;
        cuts.sort_unstable();
        let _ = streamed(&bytes, announced, &cuts);
        if bytes.len() > 8 {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
            let _ = streamed(&bytes, announced, &cuts);
        }
    }

    /// One byte of a good file changed, or its end cut off: refused, or a file of the same length.
    #[test]
    fn a_damaged_header_is_refused_or_means_as_many_bytes(
        at in 0usize..400,
        with: u8,
        cut in 0usize..30,
    ) {
        let mut bytes = safetensors(&[("a", &[2, 3]), ("b", &[4])]);
        let end = bytes.len();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = with;
        }
        if let Ok((_, pieces)) = streamed(&bytes[..end - cut.min(end)], false, &[at]) {
            prop_assert_eq!(pieces.iter().map(Piece::bytes).sum::<usize>(), 40);
        }
    }
}

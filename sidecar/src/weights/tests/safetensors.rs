//! One safetensors file.

use proptest::prelude::*;

use crate::weights::file::WeightFile;
use crate::weights::header::Bounds;
use crate::weights::safetensors::{SafetensorsFile, open};
use crate::weights::testing::{TempFolder, safetensors, safetensors_of};

fn opened(bytes: &[u8]) -> Result<SafetensorsFile, String> {
    let folder = TempFolder::new();
    let path = folder.write("model.safetensors", bytes);
    let file = WeightFile::open(&path).unwrap();
    open(file, Bounds::MODEL, &mut |_| ()).map_err(|e| {
        assert!(
            ["ModelInvalid", "UnsupportedFormat"].contains(&e.reason()),
            "{e}"
        );
        e.to_string()
    })
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let message = opened(bytes).unwrap_err();
    assert!(message.starts_with("model.safetensors: "), "{message}");
    assert!(message.contains(expected), "{message}");
    assert!(message.len() < 600, "{message}");
}

fn header(header: &str, data: usize, expected: &str) {
    refused(&safetensors_of(header, data), expected);
}

#[test]
fn a_good_file_is_read() {
    let file = opened(&safetensors(&[("a", &[2, 3]), ("b", &[4])])).unwrap();
    let names: Vec<&str> = file.tensors.iter().map(|t| t.info.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(file.tensors[0].info.bytes, 24);
}

/// The official writer's files are read.
#[test]
fn the_reference_writer_is_understood() {
    use safetensors::tensor::{Dtype, TensorView, serialize};
    let data = [0u8; 12];
    let view = TensorView::new(Dtype::BF16, vec![2, 3], &data).unwrap();
    let more = TensorView::new(Dtype::I64, vec![1], &data[..8]).unwrap();
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = serialize([("w", view), ("ids", more)], Some(metadata)).unwrap();
    let file = opened(&bytes).unwrap();
    let find = |name: &str| file.tensors.iter().find(|t| t.info.name == name).unwrap();
    assert_eq!(
        (find("w").info.dtype.as_str(), find("w").stored.is_some()),
        ("BF16", true)
    );
    assert_eq!(
        (
            find("ids").info.dtype.as_str(),
            find("ids").stored.is_some()
        ),
        ("I64", false)
    );
}

#[test]
fn cut_off_files_are_refused() {
    refused(b"", "0 bytes, the header alone needs 8");
    refused(b"1234567", "7 bytes, the header alone needs 8");
    let good = safetensors(&[("a", &[2, 3])]);
    refused(&good[..20], "the file is cut off");
    refused(
        &good[..good.len() - 1],
        "outside of the 23 bytes of data; the file is cut off",
    );
    refused(
        &[&good[..], &[0]].concat(),
        "take 24 bytes, the file has 25",
    );
}

#[test]
fn lying_lengths_are_refused_without_allocating() {
    refused(&[255; 64], "header of 18446744073709551615 bytes");
    let mut bytes = 99_000_000u64.to_le_bytes().to_vec();
    bytes.extend(b"{}");
    refused(&bytes, "10 bytes, the header alone needs 99000008");
}

#[test]
fn headers_that_are_no_headers_are_refused() {
    header("", 0, "not valid");
    header("[]", 0, "not valid");
    header("{\"a\":", 0, "not valid");
    header("\u{0}", 0, "not valid");
    header(
        r#"{"a":1}"#,
        0,
        "tensor `a`: expected dtype, shape and data_offsets",
    );
    header(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 4, "expected dtype");
    header(
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#,
        4,
        "expected dtype",
    );
    header(
        r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#,
        4,
        "expected dtype",
    );
    header(&"[".repeat(10_000), 0, "not valid");
}

#[test]
fn headers_have_a_bound_of_dimensions_and_tensors_and_an_adapters_of_bytes() {
    let a = |shape: &str| {
        format!(r#"{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,4]}}}}"#)
    };
    assert!(opened(&safetensors_of(&a(&["1"; 8].join(",")), 4)).is_ok());
    header(&a(&["1"; 9].join(",")), 4, "at most 8 dimensions");
    let empty = |at: usize| format!(r#""{at}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    let many = |count: usize| {
        let all: Vec<String> = (0..count).map(empty).collect();
        format!("{{{}}}", all.join(","))
    };
    let most = Bounds::MODEL.tensors;
    assert_eq!(
        opened(&safetensors_of(&many(most), 0))
            .unwrap()
            .tensors
            .len(),
        most
    );
    header(&many(most + 1), 0, "more than 65536 tensors");
    let of_adapter = |bytes: usize| {
        let folder = TempFolder::new();
        let text = format!("{{}}{}", " ".repeat(bytes - 2));
        let path = folder.write("adapter_model.safetensors", safetensors_of(&text, 0));
        let opened = open(
            WeightFile::open(&path).unwrap(),
            Bounds::ADAPTER,
            &mut |_| (),
        );
        opened.map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(of_adapter(4 << 20), Ok(()));
    let message = of_adapter((4 << 20) + 1).unwrap_err();
    assert!(message.contains("an adapter may have 4194304"), "{message}");
}

#[test]
fn the_format_dictionary_is_ignored() {
    let with =
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}"#;
    assert_eq!(opened(&safetensors_of(with, 2)).unwrap().tensors.len(), 1);
}

#[test]
fn tensors_given_twice_are_refused() {
    let a = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    header(&format!("{{{a},{a}}}"), 4, "`a` is given twice");
}

#[test]
fn unknown_types_are_refused() {
    let header_of =
        |dtype: &str| format!(r#"{{"a":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,4]}}}}"#);
    header(&header_of("F33"), 4, "tensor `a`: unknown dtype `F33`");
    header(&header_of(&"x".repeat(5000)), 4, "unknown dtype");
}

#[test]
fn offsets_outside_of_the_file_are_refused() {
    let at = |start: u64, end: u64| {
        format!(r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[{start},{end}]}}}}"#)
    };
    header(
        &at(0, 8),
        4,
        "data_offsets [0, 8] are outside of the 4 bytes",
    );
    header(&at(4, 0), 4, "data_offsets [4, 0] are outside");
    header(&at(u64::MAX - 4, u64::MAX), 4, "are outside");
}

#[test]
fn overlaps_and_holes_are_refused() {
    let two = |first: (u64, u64), second: (u64, u64)| {
        let tensor = |(start, end): (u64, u64)| {
            format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":[{start},{end}]}}"#)
        };
        format!(r#"{{"a":{},"b":{}}}"#, tensor(first), tensor(second))
    };
    header(
        &two((0, 8), (4, 12)),
        12,
        "begin at 4, expected 8: overlaps",
    );
    header(&two((0, 8), (0, 8)), 8, "begin at 0, expected 8: overlaps");
    header(
        &two((0, 8), (12, 20)),
        20,
        "begin at 12, expected 8: leaves a hole",
    );
    header(
        &two((4, 12), (12, 20)),
        20,
        "begin at 4, expected 0: leaves a hole",
    );
}

#[test]
fn shapes_that_contradict_their_bytes_are_refused() {
    let shape =
        |shape: &str| format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}}}"#);
    header(
        &shape("[3]"),
        8,
        "shape [3] of F32 does not take the 8 bytes",
    );
    header(&shape("[]"), 8, "does not take");
    header(
        &shape("[4294967296,4294967296,4294967296]"),
        8,
        "does not take",
    );
    header(&shape("[0,18446744073709551615]"), 8, "does not take");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>) {
        let _ = opened(&bytes);
    }

    #[test]
    fn damaged_headers_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = safetensors(&[("model.norm.weight", &[4]), ("b", &[2, 3])]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = opened(&bytes);
        let _ = opened(&bytes[..cut.index(bytes.len())]);
    }
}

//! A folder of safetensors, sharded or not.

use crate::weights::TensorSource;
use crate::weights::folder::SafetensorsFolder;
use crate::weights::testing::{TempFolder, safetensors};

const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";

fn open(folder: &TempFolder) -> Result<SafetensorsFolder, String> {
    SafetensorsFolder::open(folder.path(), &mut |_| ()).map_err(|e| e.to_string())
}

fn sharded(weight_map: &str) -> TempFolder {
    let folder = TempFolder::new();
    folder.write(FIRST, safetensors(&[("a", &[2, 3]), ("b", &[4])]));
    folder.write(SECOND, safetensors(&[("c", &[3, 2])]));
    folder.write(
        INDEX,
        format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{weight_map}}}"#),
    );
    folder
}

#[track_caller]
fn refused(weight_map: &str, expected: &str) {
    let message = open(&sharded(weight_map)).unwrap_err();
    assert!(message.contains(INDEX), "{message}");
    assert!(message.contains(expected), "{message}");
}

#[test]
fn one_file_is_read() {
    let folder = TempFolder::new();
    folder.write(
        "model.safetensors",
        safetensors(&[("a", &[3, 4]), ("b", &[5])]),
    );
    let tensors = open(&folder).unwrap();
    assert_eq!(tensors.names(), ["a", "b"]);
    let mut block = [0.0; 4];
    tensors.read_block("a", 1..3, 2..4, &mut block).unwrap();
    assert_eq!(block, [6.0, 7.0, 10.0, 11.0]);
    let mut elements = [0.0; 2];
    tensors.read_rows("b", 3..5, &mut elements).unwrap();
    assert_eq!(elements, [3.0, 4.0]);
}

#[test]
fn blocks_outside_of_a_tensor_are_refused() {
    let folder = TempFolder::new();
    folder.write("model.safetensors", safetensors(&[("a", &[3, 4])]));
    let tensors = open(&folder).unwrap();
    let read = |name: &str, rows, cols, out: usize| {
        let mut out = vec![0.0; out];
        tensors
            .read_block(name, rows, cols, &mut out)
            .unwrap_err()
            .to_string()
    };
    assert!(read("z", 0..1, 0..1, 1).contains("tensor `z`: is not in the model"));
    assert!(read("a", 0..4, 0..4, 16).contains("outside of its 3 x 4"));
    assert!(read("a", 0..1, 0..5, 5).contains("outside of its 3 x 4"));
    #[expect(clippy::reversed_empty_ranges, reason = "that is the point")]
    let reversed = 2..1;
    assert!(read("a", reversed, 0..4, 0).contains("outside"));
    assert!(read("a", 0..2, 0..4, 7).contains("do not fill 7"));
}

#[test]
fn shards_are_read_together() {
    let folder = sharded(&format!(
        r#"{{"a":"{FIRST}","b":"{FIRST}","c":"{SECOND}"}}"#
    ));
    let tensors = open(&folder).unwrap();
    assert_eq!(tensors.names(), ["a", "b", "c"]);
    let mut row = [0.0; 2];
    tensors.read_rows("c", 2..3, &mut row).unwrap();
    assert_eq!(row, [4.0, 5.0]);
}

#[test]
fn headers_are_digested_in_file_name_order() {
    let folder = sharded(&format!(
        r#"{{"c":"{SECOND}","a":"{FIRST}","b":"{FIRST}"}}"#
    ));
    let mut headers = Vec::new();
    SafetensorsFolder::open(folder.path(), &mut |bytes| headers.push(bytes.to_vec())).unwrap();
    assert_eq!(headers.len(), 2);
    assert!(String::from_utf8_lossy(&headers[0]).contains(r#""a""#));
}

#[test]
fn tensors_that_the_index_leaves_out_are_left_out() {
    let folder = sharded(&format!(r#"{{"a":"{FIRST}","c":"{SECOND}"}}"#));
    let tensors = open(&folder).unwrap();
    assert!(tensors.info("b").is_none());
}

#[test]
fn an_index_cannot_reach_outside_of_its_folder() {
    for shard in [
        "../model.safetensors",
        "/etc/passwd",
        "/tmp/x.safetensors",
        "sub/x.safetensors",
        r"..\\x.safetensors",
        "..",
        "",
        "config.json",
        ".hidden.safetensors",
        "a\\u0000.safetensors",
    ] {
        refused(
            &format!(r#"{{"a":"{shard}"}}"#),
            "is a .safetensors file in the same folder",
        );
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    refused(
        r#"{"a":"gone.safetensors"}"#,
        "names the file gone.safetensors, which is missing",
    );
    refused(
        &format!(r#"{{"a":"{FIRST}","c":"{FIRST}","x":"{SECOND}"}}"#),
        "`c` into",
    );
    let elsewhere = format!(r#"{{"a":"{SECOND}","b":"{FIRST}"}}"#);
    refused(
        &elsewhere,
        &format!("puts `a` into {SECOND}, but it is in {FIRST}"),
    );
    refused(&format!(r#"{{"nowhere":"{FIRST}"}}"#), "but no file has it");
    refused(
        &format!(r#"{{"a":"{FIRST}","a":"{FIRST}"}}"#),
        "`a` is given twice",
    );
    refused("{}", "names 0 files");
    refused("[]", "not valid");
    refused(r#"{"a":3}"#, "not valid");
}

#[test]
fn a_folder_without_weights_says_what_is_missing() {
    let folder = TempFolder::new();
    let message = open(&folder).unwrap_err();
    assert!(
        message.contains("holds neither model.safetensors nor"),
        "{message}"
    );
    folder.write("pytorch_model.bin", "x");
    assert!(
        open(&folder)
            .unwrap_err()
            .contains("PyTorch files are not read")
    );
    let folder = TempFolder::new();
    folder.write("consolidated.safetensors", "x");
    assert!(
        open(&folder)
            .unwrap_err()
            .contains("under other names are not read")
    );
}

#[test]
fn a_folder_in_place_of_a_file_is_refused() {
    let folder = TempFolder::new();
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert!(open(&folder).unwrap_err().contains("is not a regular file"));
}

#[test]
fn a_file_cut_after_it_was_opened_is_an_error() {
    let folder = TempFolder::new();
    let path = folder.write("model.safetensors", safetensors(&[("a", &[300, 4])]));
    let tensors = open(&folder).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1000)
        .unwrap();
    let mut out = vec![0.0; 1200];
    let message = tensors
        .read_rows("a", 0..300, &mut out)
        .unwrap_err()
        .to_string();
    assert!(message.contains("beyond its end"), "{message}");
}

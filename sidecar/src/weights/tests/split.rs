//! A model in several GGUF files: read as one, and what is no such model refused by name.

use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::model::ModelFolder;
use crate::weights::TensorSource;
use crate::weights::gguf::GgufFile;
use crate::weights::gguf::split::PartName;
use crate::weights::testing::{Gguf, TempFolder};

const NAMES: [&str; 3] = ["token_embd.weight", "blk.0.attn_q.weight", "output.weight"];

/// A part as `gguf-split` writes it: the first has all that the model's file had.
fn part(number: u32, of: u32) -> Gguf {
    let gguf = match number {
        1 => Gguf::new()
            .text("general.architecture", "llama")
            .float("llama.rope.freq_base", 1e4),
        _ => Gguf::new(),
    };
    gguf.number("split.no", number - 1)
        .number("split.count", of)
        .number("split.tensors.count", 3)
}

fn tensor(gguf: Gguf, at: usize) -> Gguf {
    gguf.tensor(NAMES[at], &[2 + at, 4])
}

/// Three parts of a tensor each.
fn parts() -> [Gguf; 3] {
    [1, 2, 3].map(|number| tensor(part(number, 3), number as usize - 1))
}

fn name(number: usize, of: usize) -> String {
    format!("m-{number:05}-of-{of:05}.gguf")
}

fn written(parts: &[Gguf]) -> TempFolder {
    let folder = TempFolder::new();
    for (at, part) in parts.iter().enumerate() {
        folder.write(&name(at + 1, parts.len()), part.bytes());
    }
    folder
}

fn open(path: &Path) -> Result<(GgufFile, String), String> {
    let mut digest = Digest::new();
    let file = GgufFile::open(path, &mut |bytes| digest.update(bytes));
    file.map(|file| (file, digest.finish()))
        .map_err(|e| e.to_string())
}

#[test]
fn parts_are_read_as_one_file() {
    let folder = written(&parts());
    let (file, digest) = open(&folder.path().join(name(1, 3))).unwrap();
    let names = [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "lm_head.weight",
    ];
    assert_eq!(file.tensors.names(), names);
    for (at, name) in names.into_iter().enumerate() {
        let mut row = [0.0; 4];
        file.tensors
            .read_rows(name, 1 + at..2 + at, &mut row)
            .unwrap();
        let first = 4.0 * (1 + at) as f32;
        assert_eq!(row, [first, first + 1.0, first + 2.0, first + 3.0]);
    }
    // The digest is of all headers.
    let mut other = parts();
    other[2] = part(3, 3).tensor(NAMES[2], &[5, 4]);
    let folder = written(&other);
    let (_, of_other) = open(&folder.path().join(name(1, 3))).unwrap();
    assert_ne!(digest, of_other);
}

type Change = fn(&mut [Gguf; 3]);

#[test]
fn parts_that_are_no_model_are_refused_by_name() {
    let cases: [(Change, &str, &str); 8] = [
        (
            |all| all[1] = tensor(part(3, 3), 1),
            "m-00002-of-00003.gguf",
            "`split.no` is 2, where part 2 of m-00001-of-00003.gguf has 1",
        ),
        (
            |all| all[2] = tensor(part(3, 4), 2),
            "m-00003-of-00003.gguf",
            "`split.count` is 4",
        ),
        (
            |all| all[2] = tensor(Gguf::new(), 2),
            "m-00003-of-00003.gguf",
            "`split.no` is missing",
        ),
        (
            |all| {
                let other = Gguf::new().number("split.no", 1).number("split.count", 3);
                all[1] = tensor(other.number("split.tensors.count", 7), 1);
            },
            "m-00002-of-00003.gguf",
            "`split.tensors.count` is 7",
        ),
        (
            |all| all[1] = tensor(part(2, 3).text("general.architecture", "qwen2"), 1),
            "m-00002-of-00003.gguf",
            "`general.architecture` in it is not that of m-00001-of-00003.gguf: it is another model's",
        ),
        (
            |all| all[2] = tensor(part(3, 3), 0),
            "m-00003-of-00003.gguf",
            "tensor `model.embed_tokens.weight` is in a part before it, too",
        ),
        (
            |all| all[2] = part(3, 3),
            "m-00001-of-00003.gguf",
            "`split.tensors.count` is 3, and its 3 parts have 2",
        ),
        (
            |all| all[0] = tensor(part(2, 3), 0),
            "m-00001-of-00003.gguf",
            "its name makes it part 1 of 3, and `split.no` and `split.count` in it part 2 of 3",
        ),
    ];
    for (change, file, words) in cases {
        let mut all = parts();
        change(&mut all);
        let folder = written(&all);
        let message = open(&folder.path().join(name(1, 3))).unwrap_err();
        assert!(message.starts_with(&format!("{file}: ")), "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn parts_that_are_missing_renamed_or_too_many_are_refused_by_name() {
    let folder = written(&parts());
    let at = |number, of| folder.path().join(name(number, of));
    let refused = |path: &PathBuf, words: &str| {
        let message = open(path).unwrap_err();
        assert!(message.contains(words), "{message}");
    };
    refused(
        &at(2, 3),
        "is part 2 of 3; write the path of the first, m-00001-of-00003.gguf",
    );
    let renamed = folder.path().join("model.gguf");
    std::fs::copy(at(1, 3), &renamed).unwrap();
    refused(&renamed, "call it NAME-00001-of-00003.gguf");
    std::fs::remove_file(renamed).unwrap();
    std::fs::copy(at(1, 3), at(4, 3)).unwrap();
    refused(
        &at(1, 3),
        "m-00004-of-00003.gguf: its name makes it part 4 of 3; take it away",
    );
    std::fs::remove_file(at(4, 3)).unwrap();
    std::fs::remove_file(at(3, 3)).unwrap();
    refused(
        &at(1, 3),
        "m-00003-of-00003.gguf: is missing: it is part 3 of 3; fetch it",
    );
    folder.write(&name(1, 2), tensor(Gguf::new(), 0).bytes());
    refused(&at(1, 2), "`split.count` in it says that it is whole");
    folder.write(&name(1, 1), tensor(Gguf::new(), 0).bytes());
    assert!(open(&at(1, 1)).is_ok(), "a model of one part");
    let many = part(1, 1000).bytes();
    refused(
        &folder.write(&name(1, 1000), many),
        "`split.count` is 1000, at most 999",
    );
}

/// A folder means its model where its files are the parts of one.
#[test]
fn a_folder_of_parts_means_the_first() {
    let of_all = |names: &[&str]| {
        let files: Vec<PathBuf> = names.iter().map(|name| Path::new("f").join(name)).collect();
        let name = PartName::of_all(&files).map_err(|e| e.to_string())?;
        Ok::<_, String>(name.map(|name| name.of))
    };
    let (one, two) = ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf");
    assert_eq!(of_all(&[one, two]), Ok(Some(2)));
    assert_eq!(of_all(&[two]), Ok(Some(2)));
    for other in ["n-00002-of-00002.gguf", "m-00002-of-00003.gguf", "m.gguf"] {
        assert_eq!(of_all(&[one, other]), Ok(None), "{other}");
    }
    // Of these the others would be looked for in another folder.
    for stem in ["", "."] {
        assert_eq!(
            of_all(&[&format!("{stem}-00001-of-00002.gguf")]),
            Ok(None),
            "`{stem}`"
        );
    }
    let extra = of_all(&[one, two, "m-00003-of-00002.gguf"]).unwrap_err();
    assert!(extra.starts_with("m-00003-of-00002.gguf: "), "{extra}");
    let folder = written(&parts());
    std::fs::remove_file(folder.path().join(name(1, 3))).unwrap();
    let message = ModelFolder::open(folder.path()).unwrap_err().to_string();
    let words = "m-00001-of-00003.gguf: is missing: it is part 1 of 3; fetch it";
    assert!(message.contains(words), "{message}");
}

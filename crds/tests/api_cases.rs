//! The table of specs in `tests/api` and the examples: well formed, and readable by the Rust types
//! wherever the API server lets them through. (The e2e tests send them to a real API server.)
#![expect(
    clippy::unwrap_used,
    reason = "a test may end at what it did not expect"
)]

use std::path::{Path, PathBuf};

use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde_json::Value;

struct Case {
    name: String,
    errors: Vec<String>,
    decoded: bool,
    text: String,
}

fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    files
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for file in yaml_files("tests/api") {
        for text in std::fs::read_to_string(file).unwrap().split("\n---\n") {
            let all = |key: &str| -> Vec<String> {
                let prefix = format!("# {key}: ");
                text.lines()
                    .filter_map(|line| line.strip_prefix(&prefix))
                    .map(str::to_owned)
                    .collect()
            };
            let name = all("case");
            assert_eq!(name.len(), 1, "a document without one `# case:`\n{text}");
            cases.push(Case {
                name: name[0].clone(),
                errors: all("error"),
                decoded: all("decoded").is_empty(),
                text: text.to_owned(),
            });
        }
    }
    cases
}

#[test]
fn table_of_specs_is_well_formed() {
    let cases = cases();
    assert!(cases.len() > 100, "{} cases", cases.len());
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        assert_ne!(pair[0], pair[1], "a case stands there twice");
    }
    assert!(cases.iter().any(|case| case.errors.is_empty()));
}

#[test]
fn accepted_specs_decode_and_come_back_the_same() {
    for case in cases() {
        // By way of JSON, which is what arrives from an API server.
        let written: Value = serde_saphyr::from_str(&case.text).unwrap();
        let decoded: Result<InferenceDeployment, _> = serde_json::from_value(written.clone());
        assert_eq!(
            decoded.is_ok(),
            case.decoded,
            "{}: {:?}",
            case.name,
            decoded.err()
        );
        if !case.errors.is_empty() {
            continue;
        }
        let object = decoded.unwrap();
        let json = serde_json::to_value(&object).unwrap();
        let again: InferenceDeployment = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(again, object, "{}", case.name);
        contains(&json, &written, &case.name);
    }
}

/// Whatever was written is still there.
fn contains(whole: &Value, part: &Value, path: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, value) in part {
                let path = format!("{path}.{name}");
                match whole.get(name) {
                    Some(kept) => contains(kept, value, &path),
                    None => assert!(
                        value.as_array().is_some_and(Vec::is_empty),
                        "{path} is gone"
                    ),
                }
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{path}");
            whole
                .iter()
                .zip(part)
                .for_each(|(whole, part)| contains(whole, part, path));
        }
        (Value::String(whole), Value::Number(part)) => {
            // A quantity written as a number.
            assert_eq!(
                whole.parse::<f64>().unwrap(),
                part.as_f64().unwrap(),
                "{path}"
            );
        }
        (Value::Number(whole), Value::Number(part)) => {
            assert_eq!(whole.as_f64(), part.as_f64(), "{path}");
        }
        _ => assert_eq!(whole, part, "{path}"),
    }
}

#[test]
fn examples_decode() {
    let files = yaml_files("../examples");
    assert!(files.len() >= 5);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for document in text.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            if object["kind"] == "InferenceDeployment" {
                let typed: InferenceDeployment = serde_json::from_value(object.clone()).unwrap();
                let json = serde_json::to_value(typed).unwrap();
                contains(&json, &object, &file.display().to_string());
            }
        }
    }
}

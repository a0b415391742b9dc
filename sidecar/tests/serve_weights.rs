//! `/weight_checker` of the real binary: weights are after serving what they were after loading.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use serde_json::{Value, json};
use served::{SPLIT, Served};

#[test]
fn weights_are_unchanged_after_serving_and_the_same_at_every_start() {
    let token = "a token of some length";
    let file = std::env::temp_dir().join(format!("plimsoll-token-{}", std::process::id()));
    std::fs::write(&file, token).unwrap();
    let flags = [&SPLIT[..], &["--admin-token-file", file.to_str().unwrap()]].concat();
    let served = Served::start("tiny-llama", &flags);
    let header = format!("authorization: Bearer {token}\r\n");
    let check = |served: &Served| served.get_admin("/weight_checker", &header).json();
    assert_eq!(served.get_admin("/weight_checker", "").status, 401);

    let before = check(&served);
    assert_eq!(before["unchanged"], true, "{before}");
    assert_eq!(before["ranks"].as_array().unwrap().len(), 2);
    for (rank, told) in (0..).zip(before["ranks"].as_array().unwrap()) {
        assert_eq!(told["rank"], json!(rank));
        assert!(told["tensors"].as_u64().unwrap() > 10, "{told}");
        assert!(told["bytes"].as_u64().unwrap() > 100_000, "{told}");
    }
    let sum = |told: &Value, rank: usize| told["ranks"][rank]["checksum"].clone();
    assert_ne!(
        sum(&before, 0),
        sum(&before, 1),
        "each rank has a part of its own"
    );

    let body = r#"{"model": "tiny-llama", "prompt": [5, 6, 7], "max_tokens": 200,
        "ignore_eos": true, "n": 4}"#;
    assert_eq!(served.post("/v1/completions", body).status, 200);
    assert_eq!(check(&served), before);
    drop(served);

    let again = Served::start("tiny-llama", &flags);
    assert_eq!(check(&again), before, "the same model in the same split");
    std::fs::remove_file(file).unwrap();
}

//! The real binary on a tiny model, over real sockets: answers, bad input, the end.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use std::fs;
use std::io::Read;

use plimsoll_crds::names::EXIT_PLAN_DIFFERS;
use serde_json::{Value, json};
use served::documents::documents;
use served::{FREE_PORTS, SMALL, SPLIT, Served, answer, binary, fixture, open, post_text};

fn expected() -> Value {
    let text = fs::read_to_string(fixture("tiny-llama").join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A greedy completion of 64 tokens, end-of-sequence ignored.
fn completion(prompt: &Value, more: &str) -> String {
    format!(
        r#"{{"model": "tiny-llama", "prompt": {prompt}, "max_tokens": 64, "temperature": 0,
             "ignore_eos": true{more}}}"#
    )
}

#[test]
fn it_says_over_http_what_transformers_says() {
    let served = Served::start("tiny-llama", &[]);
    let mut checked = 0;
    for prompt in expected()["prompts"].as_array().unwrap() {
        let greedy = &prompt["greedy"];
        // Special tokens are no text; the ids themselves are compared elsewhere.
        if greedy
            .as_array()
            .unwrap()
            .iter()
            .any(|id| id.as_u64().unwrap() < 3)
        {
            continue;
        }
        checked += 1;
        let text = served
            .post("/detokenize", &json!({"tokens": greedy}).to_string())
            .json();
        let text = text["prompt"].as_str().unwrap();
        let whole = served
            .post("/v1/completions", &completion(&prompt["ids"], ""))
            .json();
        assert_eq!(whole["choices"][0]["text"], text);
        assert_eq!(whole["choices"][0]["finish_reason"], "length");
        assert_eq!(whole["usage"]["completion_tokens"], 64);
        let streamed = completion(&prompt["ids"], r#", "stream": true"#);
        let events = served.post("/v1/completions", &streamed).events();
        assert_eq!(events.last().unwrap(), "[DONE]");
        let pieces = events
            .iter()
            .filter_map(|event| event["choices"][0]["text"].as_str());
        assert_eq!(pieces.collect::<String>(), text);
    }
    assert!(checked > 0);
}

#[test]
fn a_chat_and_its_figures() {
    let served = Served::start(
        "tiny-llama",
        &["--served-model-name", "a", "--served-model-name", "b"],
    );
    let ids: Vec<Value> = served.get("/v1/models").json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| card["id"].clone())
        .collect();
    assert_eq!(ids, ["a", "b"]);
    let chat = r#"{"model": "b", "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 8, "n": 3, "seed": 1, "logprobs": true, "top_logprobs": 2}"#;
    let first = served.post("/v1/chat/completions", chat).json();
    assert_eq!(first["choices"].as_array().unwrap().len(), 3);
    let again = served.post("/v1/chat/completions", chat).json();
    assert_eq!(
        first["choices"], again["choices"],
        "a seed gives the same answer again"
    );
    let tops = &first["choices"][0]["logprobs"]["content"][0]["top_logprobs"];
    assert_eq!(tops.as_array().unwrap().len(), 2);

    let metrics = served.get("/metrics").body;
    let generated = [&first, &again].map(|chat| chat["usage"]["completion_tokens"].as_u64());
    let generated: u64 = generated.iter().flatten().sum();
    for line in [
        r#"vllm:num_requests_running{engine="0",model_name="a"} 0"#,
        &format!(r#"vllm:generation_tokens_total{{engine="0",model_name="a"}} {generated}"#),
        r#"plimsoll_engine_state{model_name="a",state="serving"} 1"#,
        r#"vllm:request_params_n_sum{engine="0",model_name="a"} 6"#,
    ] {
        assert!(
            metrics.lines().any(|have| have == line),
            "{line} is not in\n{metrics}"
        );
    }

    let report = served.get_admin("/memory", "").json();
    assert_eq!(report["state"], "Serving");
    let rank = &report["ranks"][0];
    let sum: u64 = rank["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["reservedBytes"].as_u64().unwrap())
        .sum();
    let driver = rank["driverBytes"].as_u64().unwrap();
    assert!(
        driver > 0 && driver <= rank["budgetBytes"].as_u64().unwrap(),
        "{rank}"
    );
    assert!(
        driver.abs_diff(sum) * 20 <= driver,
        "accounts {sum}, driver {driver}"
    );
    for row in rank["accounts"].as_array().unwrap() {
        let kind = row["name"]
            .as_str()
            .unwrap()
            .to_lowercase()
            .replace("kvcache", "kv_cache");
        let line = format!(
            "plimsoll_gpu_memory_bytes{{gpu=\"0\",kind=\"{kind}\",model_name=\"a\"}} {}",
            row["reservedBytes"]
        );
        assert!(
            metrics.lines().any(|have| have == line),
            "{line} is not in\n{metrics}"
        );
    }
}

#[test]
fn bad_input_is_refused_and_disturbs_nothing() {
    let served = Served::start("tiny-llama", &["--max-body-size", "64Ki"]);
    let chat = |more: &str| {
        format!(
            r#"{{"model": "tiny-llama", "max_tokens": 4,
                 "messages": [{{"role": "user", "content": "hi"}}]{more}}}"#
        )
    };
    let long = json!({"model": "tiny-llama", "prompt": "word ".repeat(3000)}).to_string();
    for (path, body, status, part) in [
        (
            "/v1/chat/completions",
            "{\"model\": ".to_owned(),
            400,
            "line 1 column",
        ),
        (
            "/v1/chat/completions",
            "x".repeat(100_000),
            413,
            "65536 bytes",
        ),
        (
            "/v1/chat/completions",
            chat("").replace("tiny-llama", "gpt-4"),
            404,
            "served: tiny-llama",
        ),
        ("/v1/completions", long, 400, "context_length_exceeded"),
        (
            "/v1/chat/completions",
            chat(r#", "temperature": -1"#),
            400,
            "from 0 to 2",
        ),
        (
            "/v1/chat/completions",
            chat(r#", "n": 100000"#),
            400,
            "from 1 to 4",
        ),
        (
            "/v1/chat/completions",
            chat(r#", "tools": [{}]"#),
            400,
            "unsupported_parameter",
        ),
    ] {
        let answer = served.post(path, &body);
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(part), "{}", answer.body);
        assert!(answer.json()["error"]["message"].is_string());
    }
    assert_eq!(served.post("/v1/chat/completions", &chat("")).status, 200);
    assert_eq!(served.get("/livez").status, 200);
}

#[test]
fn a_drain_lets_requests_end_and_takes_no_new_ones() {
    let mut served = Served::start("tiny-llama", &[]);
    let prompt = json!([5, 6, 7]);
    let body = completion(&prompt, r#", "stream": true"#).replace("64,", "400,");
    let mut running = open(served.api, &post_text("/v1/completions", &body));
    let mut bytes = vec![0; 1];
    running.read_exact(&mut bytes).unwrap();
    served.terminate();
    served.wait_for("\"message\":\"draining\"");
    let refused = served.get("/readyz");
    // Ended already or refused: on a fast machine the drain may be over.
    assert!(
        refused.status == 503 || refused.status == 0,
        "{}",
        refused.status
    );
    running.read_to_end(&mut bytes).unwrap();
    let answer = answer(&bytes);
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
    assert!(served.ended().success());
}

#[test]
fn what_cannot_be_served_ends_with_one_line_that_says_why() {
    let message = std::env::temp_dir().join(format!("plimsoll-last-words-{}", std::process::id()));
    fs::write(&message, "").unwrap();
    let twice = ["--served-model-name", "a"].repeat(2);
    for (flags, code, part) in [
        (vec!["--quota", "0=1Mi"], 1, "0"),
        (vec!["--host", "0.0.0.0"], 64, "--admin-token-file: missing"),
        (twice, 64, "--served-model-name: a is there twice"),
    ] {
        let output = binary()
            .arg("serve")
            .args(FREE_PORTS)
            .arg("--termination-message")
            .arg(&message)
            .arg(fixture("tiny-llama"))
            .args(SMALL)
            .args(&flags)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(code), "{flags:?}");
        let words = fs::read_to_string(&message).unwrap();
        assert!(words.contains(part), "{flags:?}: {words}");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(log.contains("ended by a failure"), "{log}");
    }
    fs::remove_file(message).unwrap();
}

#[test]
fn plan_ends_with_the_codes_that_its_help_names() {
    let tiny = fixture("tiny-llama");
    for (flags, code) in [
        (&[][..], 0),
        (&["--memory-limit", "1Mi"], 2),
        (&["--quota", "1=1Gi"], 64),
        (&["--gpu-memory-utilization", "0"], 64),
        (&["--memory-limit", "-1"], 64),
        (&["--no-such-flag"], 64),
        (&["--help"], 0),
    ] {
        let output = binary().arg("plan").arg(&tiny).args(flags).output();
        assert_eq!(output.unwrap().status.code(), Some(code), "{flags:?}");
    }
    let missing = binary().args(["plan", "/no/such/model"]).output();
    assert_eq!(missing.unwrap().status.code(), Some(1));
    let mut isa = binary();
    isa.arg("serve").arg(&tiny).args(["--isa", "sse9"]);
    let output = isa.output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("\"sse9\" is unknown; use one of scalar"),
        "{told}"
    );
}

#[test]
fn the_operators_documents_are_served_or_refused_with_both_numbers() {
    let folder = std::env::temp_dir().join(format!("plimsoll-engine-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let [(boot_name, mut boot), (target_name, target)] = documents();
    let write = |name, document: &Value| fs::write(folder.join(name), document.to_string());
    write(boot_name, &boot).unwrap();
    write(target_name, &target).unwrap();
    let served = Served::start_config(&folder);
    let report = served.get_admin("/memory", "").json();
    assert_eq!(report["revision"], "r7");
    let applied = json!({"generation": 3, "outcome": "Applied", "overageBytes": 0});
    assert_eq!(report["target"], applied);
    assert_eq!(served.get_admin("/target", "").json(), applied);
    let names_and_bytes = |rows: &Value| -> Vec<(Value, Value)> {
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| (row["name"].clone(), row["plannedBytes"].clone()))
            .collect()
    };
    for rank in 0..2 {
        let reported = names_and_bytes(&report["ranks"][rank]["accounts"]);
        assert_eq!(
            reported,
            names_and_bytes(&target["ranks"][rank]["accounts"])
        );
    }
    drop(served);

    let mlp = &mut boot["split"]["ranks"][1]["mlpColumns"][0];
    let ours = mlp.as_u64().unwrap();
    *mlp = json!(ours + 128);
    write(boot_name, &boot).unwrap();
    let output = binary()
        .args(["serve", "--port", "0", "--admin-port", "0"])
        .args(["--probe-port", "0", "--config"])
        .arg(&folder)
        .output()
        .unwrap();
    fs::remove_dir_all(folder).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(EXIT_PLAN_DIFFERS)));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let there = format!(
        "mlpColumns of rank 1 is {}..352 there, {ours}..352 here",
        ours + 128
    );
    assert!(log.contains(&there), "{log}");
}

fn run(args: &[&str], model: &str) -> (Option<i32>, String) {
    let output = binary()
        .args(&args[..1])
        .arg(fixture(model))
        .args(&args[1..])
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn plan_and_inspect_answer_without_an_engine() {
    let limits = ["--max-num-seqs", "4", "--max-num-batched-tokens", "64"];
    let split = [&["plan"], &SPLIT[..], &limits].concat();
    let (code, table) = run(&split, "tiny-llama");
    assert_eq!(code, Some(0), "{table}");
    assert!(
        table.contains("WEIGHTS") && table.contains("8.00 MiB"),
        "{table}"
    );
    let (code, refusal) = run(&["plan", "--quota", "0=1Mi"], "tiny-llama");
    assert_eq!(code, Some(2));
    assert!(refusal.contains("1.00 MiB"), "{refusal}");
    let (code, facts) = run(&["inspect", "--output", "json"], "tiny-llama");
    assert_eq!(code, Some(0));
    let facts: Value = serde_json::from_str(&facts).unwrap();
    assert_eq!(facts["facts"]["kvHeads"], 2);
    let (code, error) = run(&["inspect", "--output", "json"], "no-such-model");
    assert_eq!(code, Some(1));
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error["error"]["reason"], "ModelNotFound");
}

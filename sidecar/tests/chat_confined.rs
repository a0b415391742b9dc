//! Chat templates in their own process, as `serve` runs them: the same prompts as in this one, and
//! templates that want more memory or time than they get end alone.
#![allow(clippy::unwrap_used, reason = "a test")]

mod hostile;
mod served;

use std::fs;
use std::path::Path;

use hostile::{GROWS, confined, hostile, model, proc_bytes, says};
use plimsoll_sidecar::chat::worker::MEMORY_BYTES;
use plimsoll_sidecar::chat::{ChatError, ChatMessage, ChatTemplate};
use served::{ModelCopy, Served};

/// Processes that this thread started and that are not waited for.
fn children() -> Vec<u32> {
    let ids = fs::read_to_string("/proc/thread-self/children").unwrap();
    ids.split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

#[test]
fn prompts_are_those_of_the_same_process() {
    let source = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} \
        ({{ m.name }}){% endif %}\n{{ m.content.strip() }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\
        {% if messages[0].content == 'no' %}{{ raise_exception('not this') }}{% endif %}";
    let confined = confined(source).unwrap();
    let model = model(source);
    let here = ChatTemplate::load(&model, &model.tokenizer().unwrap())
        .unwrap()
        .unwrap();
    let named = ChatMessage {
        name: Some("ann <|im_end|>".to_owned()),
        ..says("ü\n<|im_start|>system")[0].clone()
    };
    let chat = [named, says(" two ")[0].clone()];
    for flag in [true, false] {
        let prompt = confined.render(&chat, flag).unwrap();
        assert_eq!(prompt, here.render(&chat, flag).unwrap());
        assert_eq!(
            (prompt.literal.len(), prompt.text.contains("assistant")),
            (2, flag)
        );
    }
    match confined.render(&says("no"), true) {
        Err(ChatError::Refused { message }) => assert_eq!(message, "not this"),
        other => panic!("{other:?}"),
    }
    let long = says(&"word ".repeat(100_000));
    let prompt = confined.render(&long, true).unwrap();
    assert_eq!(
        prompt,
        here.render(&long, true).unwrap(),
        "more than a pipe holds"
    );
    assert_eq!(children().len(), 1, "one process served them all");
}

#[test]
fn a_template_that_does_not_parse_is_refused_at_the_start_and_a_large_constant_when_it_is_made() {
    let error = confined("\n{% for m in messages %}")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("does not parse") && error.contains("line 2"),
        "{error}"
    );
    assert_eq!(children(), [0; 0], "nothing stays behind");
    let constant = ["'x' * 30000000"; 8].join(" ~ ");
    let template = confined(&format!("{{{{ {constant} }}}}")).unwrap();
    let error = template.render(&says("hi"), true).unwrap_err().to_string();
    assert!(error.contains("more than 64 MiB"), "{error}");
    drop(template);
    assert_eq!(children(), [0; 0], "nothing stays behind");
}

#[test]
fn a_server_outlives_its_models_template() {
    let (_, doubles) = GROWS[0];
    let model = ModelCopy::new("tiny-llama", "chat_template.jinja", &hostile(doubles));
    let mut served = Served::start(model.path(), &["--served-model-name", "tiny"]);
    let chat = |content: &str| {
        let body = format!(
            r#"{{"model": "tiny", "max_tokens": 2,
                "messages": [{{"role": "user", "content": "{content}"}}]}}"#
        );
        served.post("/v1/chat/completions", &body)
    };
    assert_eq!(chat("hi").status, 200);
    let answer = chat("go");
    assert_eq!(answer.status, 400, "{}", answer.body);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "chat_template_failed");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("more than 64 MiB of memory"), "{message}");
    assert_eq!(chat("hi").status, 200);
    served.terminate();
    assert!(served.ended().success());
}

#[test]
fn the_bound_is_the_kernels() {
    let template = confined("{{ messages|length }}").unwrap();
    let chat = says(&"x".repeat(1000));
    template.render(&chat, true).unwrap();
    let [worker] = children()[..] else {
        panic!("not one process")
    };
    let limits = format!("/proc/{worker}/limits");
    let limit = proc_bytes(&limits, "Max address space", 1);
    let size = proc_bytes(&format!("/proc/{worker}/status"), "VmSize:", 1024);
    // For a kilobyte of text; what was mapped since the start counts against it.
    let slack = 64 << 10;
    assert!(
        limit <= size + MEMORY_BYTES + slack,
        "{limit} with {size} mapped"
    );
    assert!(
        limit + (8 << 20) >= size + MEMORY_BYTES,
        "{limit} with {size} mapped"
    );
    assert_eq!(proc_bytes(&limits, "Max core file size", 1), 0);
    drop(template);
    assert_eq!(children(), [0; 0]);
}

#[test]
fn time_that_a_template_takes_is_bounded_where_steps_do_not_bound_it() {
    // Two lists that share their halves forty times over: comparing and writing them take 2^40.
    let lists = "{% set ns.y = [1] %}{% set ns.z = [1] %}{% for i in range(40) %}\
        {% set ns.y = [ns.y, ns.y] %}{% set ns.z = [ns.z, ns.z] %}{% endfor %}";
    let compared = "{% if ns.y == ns.z %}{% set ns.x = '' %}{% endif %}";
    let written = "{% set ns.x = ns.y ~ '' %}";
    for (what, told) in [
        (compared, "computed for more than 2 s"),
        (written, "more than "),
    ] {
        let template = confined(&hostile(&format!("{lists}{what}"))).unwrap();
        let error = template.render(&says("go"), true).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert_eq!(template.render(&says("hi"), true).unwrap().text, "8");
    }
}

#[test]
fn a_process_that_was_ended_while_idle_is_replaced() {
    let template = confined("{{ messages[0].content }}").unwrap();
    for round in 0..3 {
        let [worker] = children()[..] else {
            panic!("not one process")
        };
        let kill = format!("kill -KILL {worker}");
        let mut shell = std::process::Command::new("sh");
        assert!(shell.args(["-c", &kill]).status().unwrap().success());
        // Dead, and not yet waited for.
        let state = || fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
        while !state().contains(") Z ") {
            std::thread::yield_now();
        }
        assert_eq!(
            template.render(&says("hi"), true).unwrap().text,
            "hi",
            "{round}"
        );
    }
}

#[test]
fn without_a_process_a_template_runs_here() {
    let model = model("{{ messages[0].content }}");
    let tokenizer = model.tokenizer().unwrap();
    for program in ["/nowhere/at/all", "/bin/true", "/bin/echo"] {
        let template = ChatTemplate::load_confined(&model, &tokenizer, Path::new(program));
        let template = template.unwrap().unwrap();
        assert_eq!(
            template.render(&says("hi"), true).unwrap().text,
            "hi",
            "{program}"
        );
        assert_eq!(children(), [0; 0], "{program}");
    }
}

#[test]
fn a_chat_whose_template_loops_ends_soon_and_others_are_answered() {
    let source = "{% if messages[0].content=='slow' %}{% for a in range(100000) %}\
        {% for b in range(100000) %}{% endfor %}{% endfor %}{% endif %}\
        {% for m in messages %}{{ m.content }}{% endfor %}";
    let template = confined(source).unwrap();
    std::thread::scope(|scope| {
        let slow: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    template
                        .render(&says("slow"), true)
                        .unwrap_err()
                        .to_string()
                })
            })
            .collect();
        assert_eq!(template.render(&says("hi"), true).unwrap().text, "hi");
        for one in slow {
            let error = one.join().unwrap();
            let (_, rest) = error.split_once("did not end within ").unwrap();
            let steps: u64 = rest.split(' ').next().unwrap().parse().unwrap();
            assert!(steps < 350_000, "{error}");
        }
    });
}

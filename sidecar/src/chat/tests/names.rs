//! Which template a chat gets, what it knows by name, and what it reads.

use std::path::Path;

use super::*;

#[test]
fn chats_with_tools_have_a_template_of_their_own_where_the_model_has_one() {
    let chat = |tools: Option<Ordered>| Chat {
        messages: vec![Ordered::from(&message("user", "hi"))],
        tools,
        ..Chat::default()
    };
    let (plain, tools) = (chat(None), chat(Some(Ordered::List(Vec::new()))));
    let both = ChatTemplates {
        default: "plain {{ messages[0].content }}".to_owned(),
        tool_use: Some("tools {{ messages[0].content }}{{ messages[0].tool_calls }}".to_owned()),
    };
    let template = ChatTemplate::parse(both, &tokenizer(), Vec::new()).unwrap();
    let text = |template: &ChatTemplate, chat| template.render_chat(chat).unwrap().text;
    assert_eq!(text(&template, &plain), "plain hi");
    assert_eq!(text(&template, &tools), "tools hi");
    assert!(!template.reads("tool_calls", &plain) && template.reads("tool_calls", &tools));
    let one = parse("{{ messages[0].content }}", Vec::new()).unwrap();
    assert_eq!(text(&one, &tools), "hi");
    let broken = ChatTemplates {
        default: "x".to_owned(),
        tool_use: Some("{% if %}".to_owned()),
    };
    assert!(ChatTemplate::parse(broken, &tokenizer(), Vec::new()).is_err());
}

#[test]
fn names_are_what_the_template_reads_and_not_what_it_writes() {
    let source = "{# enable_thinking #}tool_calls {{ 'prefix' }}{{ a ~ 'prefix' }}\
        {% set assigned = 1 %}{% set ns.field = b.c['d'] %}{% if 'e' in m and m.get('f') %}{% endif %}\
        {% for t in g|selectattr('h.i')|map(attribute='j') if k %}{{ loop.index }}{% endfor %}\
        {% macro o(p, q=r) %}{{ caller(s) }}{% endmacro %}{% call o(1) %}{{ u[v:w] }}{% endcall %}\
        {% with x = y %}{% endwith %}{% for key in ['z1', 'z2'] %}{{ m[key] }}{% endfor %}\
        {{ 'prefix' if aa is defined else bb }}{% generation %}{{ -cc }}{% endgeneration %}";
    let template = parse(source, Vec::new()).unwrap();
    let chat = Chat::default();
    for name in [
        "a", "b", "c", "d", "e", "m", "f", "g", "h", "i", "j", "k", "r", "s", "u", "v", "w", "y",
        "z1", "z2", "aa", "bb", "cc",
    ] {
        assert!(template.reads(name, &chat), "{name}");
    }
    for name in [
        "enable_thinking",
        "tool_calls",
        "prefix",
        "assigned",
        "field",
        "p",
        "q",
        "t",
        "x",
    ] {
        assert!(!template.reads(name, &chat), "{name}");
    }
}

#[test]
fn templates_know_the_special_tokens_wherever_a_folder_names_them() {
    let folder = crate::weights::testing::TempFolder::new();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny-llama");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        folder.write(file, std::fs::read(from.join(file)).unwrap());
    }
    let source = "{{ bos_token }},{{ eos_token }},{{ unk_token }},{{ sep_token }},{{ pad_token }},\
        {{ cls_token }},{{ mask_token }},{{ image_token }};{{ messages[0].content }}";
    let render = || {
        let model = crate::model::ModelFolder::open(folder.path()).unwrap();
        let template = ChatTemplate::load(&model, &tokenizer()).unwrap().unwrap();
        template
            .render(&[message("user", "hi")], true)
            .unwrap()
            .text
    };
    folder.write("chat_template.jinja", source);
    assert_eq!(render(), ",,,,,,,;hi");
    let names = r#"{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<unk>",
        "sep_token": "<sep>", "pad_token": "<pad>", "cls_token": "<cls>", "mask_token": "<mask>"}"#;
    let expected = "<|im_start|>,<|im_end|>,<unk>,<sep>,<pad>,<cls>,<mask>,;hi";
    folder.write("special_tokens_map.json", names);
    assert_eq!(render(), expected);
    std::fs::remove_file(folder.path().join("special_tokens_map.json")).unwrap();
    folder.write("tokenizer_config.json", names);
    assert_eq!(render(), expected);
    folder.write(
        "tokenizer_config.json",
        r#"{"pad_token": {"content": "<|endoftext|>"}, "image_token": "<image>"}"#,
    );
    assert_eq!(render(), ",,,,<|endoftext|>,,,<image>;hi");
}

#[test]
fn real_templates_read_what_their_source_names_outside_of_comments_and_texts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_templates");
    let mut differ = Vec::new();
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "jinja") {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let template = parse(&source, Vec::new()).unwrap();
        for word in [
            "content",
            "tool_calls",
            "reasoning_content",
            "enable_thinking",
            "reasoning_effort",
            "tool_call_id",
        ] {
            let reads = template.reads(word, &Chat::default());
            read += usize::from(reads);
            if reads != source.contains(word) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                differ.push(format!("{name}: {word}"));
            }
        }
    }
    differ.sort();
    assert!(read > 150, "{read}");
    // Its comment says that it does without them.
    let commented = ["enable_thinking", "reasoning_content"];
    let expected = commented.map(|word| format!("qwen3_instruct_2507_training.jinja: {word}"));
    assert_eq!(differ, expected);
}

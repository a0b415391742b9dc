//! The template language against Jinja2 as transformers sets it up: what `make_templates.py` wrote
//! down of more than a thousand expressions and statements, and of real templates with many chats.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::chat::Ordered;
use crate::chat::jinja::{Jinja, Stop};

/// What Jinja2 renders and this engine refuses, each with its reason. Nothing else may differ, a
/// different text never; the list only shrinks.
const REFUSED: [(&str, &str); 26] = [
    (
        "{{ items|map('string') is lower }}",
        "the text of a generator is an address",
    ),
    (
        "{{ items|map('string') is upper }}",
        "the text of a generator is an address",
    ),
    ("{{ namespace() is lower }}", "a Python object as text"),
    ("{{ namespace() is upper }}", "a Python object as text"),
    (
        "{{ raise_exception is lower }}",
        "the text of a function is an address",
    ),
    (
        "{{ raise_exception is upper }}",
        "the text of a function is an address",
    ),
    (
        "{{ 'x'.upper is lower }}",
        "the text of a method is an address",
    ),
    (
        "{{ 'x'.upper is upper }}",
        "the text of a method is an address",
    ),
    (
        "{{ none[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ true[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ 0[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ 1[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ 1.5[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ {}[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ {'a':1}[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ 'x'.upper[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    ("{{ \"abc\".encode() }}", "bytes"),
    ("{{ lipsum() is string }}", "random text"),
    (
        "{{ ('<'|e) + '<' }}",
        "HTML: text marked safe escapes what joins it",
    ),
    ("{{ '<'|forceescape }}", "HTML"),
    ("{{ '<b>x</b>'|striptags }}", "HTML"),
    ("{{ '\\N{BULLET}' }}", "Python's table of character names"),
    (
        "{% block a %}x{% endblock %}",
        "inheritance between templates",
    ),
    (
        "{% block a %}x{{ one }}{% endblock a %}y",
        "inheritance between templates",
    ),
    ("{% autoescape false %}{{ '<' }}{% endautoescape %}", "HTML"),
    ("{{ self }}", "inheritance between templates"),
];
const CASES_MIN: usize = 1_600;

#[derive(Deserialize)]
struct Expected {
    now: u64,
    variables: Ordered,
    cases: Vec<Case>,
    dates: Vec<Dated>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    #[serde(flatten)]
    result: Outcome,
}

/// `text` where Jinja2 wrote one, else `error`.
#[derive(Deserialize)]
struct Outcome {
    text: Option<String>,
}

#[derive(Deserialize)]
struct Dated {
    at: u64,
    format: String,
    text: String,
}

#[derive(Deserialize)]
struct Real {
    chats: BTreeMap<String, Ordered>,
    templates: BTreeMap<String, BTreeMap<String, Outcome>>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

fn pairs(variables: &Ordered) -> Vec<(String, Ordered)> {
    match variables {
        Ordered::Object(fields) => fields.clone(),
        other => panic!("{other:?}"),
    }
}

fn render(jinja: &Jinja, variables: &Ordered, now: u64) -> Result<String, Stop> {
    jinja.render(pairs(variables), HashMap::new(), 1 << 20, now)
}

#[test]
fn expressions_and_statements_write_what_jinja2_writes() {
    let Expected {
        now,
        variables,
        cases,
        dates: _,
    } = read("templates.json");
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    let mut wrong = Vec::new();
    let mut refused = Vec::new();
    for Case { template, result } in &cases {
        let got = Jinja::parse(template).and_then(|jinja| render(&jinja, &variables, now));
        match (&result.text, got) {
            (Some(text), Ok(got)) if *text == got => {}
            (None, Err(_)) => {}
            (Some(_), Err(_)) if REFUSED.iter().any(|(listed, _)| listed == template) => {
                refused.push(template.as_str());
            }
            (text, got) => wrong.push(format!("{template}\n  Jinja2 {text:?}\n  here   {got:?}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let stale = REFUSED
        .iter()
        .filter(|(listed, _)| !refused.contains(listed));
    assert_eq!(
        stale.count(),
        0,
        "REFUSED lists what is rendered: {refused:?}"
    );
}

#[test]
fn real_templates_write_what_jinja2_writes() {
    let Expected { now, .. } = read("templates.json");
    let Real { chats, templates } = read("chat_templates/expected.json");
    let (mut texts, mut wrong) = (0, Vec::new());
    for (name, outcomes) in &templates {
        let path = fixtures().join("chat_templates").join(name);
        let jinja = Jinja::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        for (chat, outcome) in outcomes {
            let got = render(&jinja, &chats[chat], now);
            texts += usize::from(outcome.text.is_some());
            if outcome.text.as_ref() != got.as_ref().ok() {
                wrong.push(format!(
                    "{name}, {chat}: {:?}\n  here {got:?}",
                    outcome.text
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(templates.len() >= 70 && texts >= 3_000, "{texts} texts");
}

#[test]
fn dates_are_written_as_python_writes_them() {
    let Expected { dates, .. } = read("templates.json");
    assert!(dates.len() >= 200, "{}", dates.len());
    let jinja = Jinja::parse("{{ strftime_now(format) }}").unwrap();
    for Dated { at, format, text } in dates {
        let variables = Ordered::Object(vec![("format".to_owned(), Ordered::text(&format))]);
        let got = render(&jinja, &variables, at).map_err(|stop| stop.message);
        assert_eq!(got, Ok(text), "{format} at {at}");
    }
}

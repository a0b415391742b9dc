//! The template language against Jinja2 as transformers sets it up: what `make_templates.py` wrote
//! down of more than a thousand expressions and statements, and of real templates with many chats.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::refused::{REFUSED, REFUSED_PARTS};
use crate::chat::Ordered;
use crate::chat::jinja::{Jinja, Stop};

const CASES_MIN: usize = 2_200;

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
    chats: Ordered,
    lines: Vec<String>,
    /// Numbers of lines.
    texts: Vec<Vec<usize>>,
    /// Numbers of texts, in the order of the chats; none where Jinja2 refuses.
    templates: BTreeMap<String, Vec<Option<usize>>>,
}

fn is_listed(template: &str) -> bool {
    REFUSED.iter().any(|(listed, _)| *listed == template)
        || REFUSED_PARTS
            .iter()
            .any(|(part, _)| template.contains(part))
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
            (Some(_), Err(_)) if is_listed(template) => refused.push(template.as_str()),
            (text, got) => wrong.push(format!("{template}\n  Jinja2 {text:?}\n  here   {got:?}")),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let stale_case = |listed: &str| !refused.contains(&listed);
    let stale_part = |part: &str| !refused.iter().any(|template| template.contains(part));
    assert!(
        !REFUSED.iter().any(|(listed, _)| stale_case(listed))
            && !REFUSED_PARTS.iter().any(|(part, _)| stale_part(part)),
        "what is rendered is listed as refused: {refused:?}"
    );
}

#[test]
fn real_templates_write_what_jinja2_writes() {
    let Expected { now, .. } = read("templates.json");
    let Real {
        chats,
        lines,
        texts: written,
        templates,
    } = read("chat_templates/expected.json");
    let chats = pairs(&chats);
    let (mut texts, mut wrong) = (0, Vec::new());
    let mut largest = (0.0, String::new());
    for (name, outcomes) in &templates {
        let path = fixtures().join("chat_templates").join(name);
        let jinja = Jinja::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(outcomes.len(), chats.len(), "{name}");
        for ((chat, variables), outcome) in chats.iter().zip(outcomes) {
            let got = render(&jinja, variables, now);
            let (taken, most) = jinja.steps(pairs(variables), now);
            let share = taken as f64 / most as f64;
            if share > largest.0 {
                largest = (share, format!("{name}, {chat}: {taken} of {most} steps"));
            }
            texts += usize::from(outcome.is_some());
            let text = outcome.map(|at| {
                let lines = written[at].iter().map(|line| lines[*line].as_str());
                lines.collect::<String>()
            });
            if text.as_ref() != got.as_ref().ok() {
                wrong.push(format!("{name}, {chat}: {text:?}\n  here {got:?}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    println!("the largest share of its steps: {largest:?}");
    assert!(largest.0 > 0.0 && largest.0 < 0.05, "{largest:?}");
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

#[test]
fn long_chats_of_short_messages_stay_below_their_steps() {
    let Expected { now, .. } = read("templates.json");
    let Real { templates, .. } = read("chat_templates/expected.json");
    for (count, below) in [(100, 0.1), (300, 0.25), (1000, 0.7)] {
        let said = (0..count).map(|at| {
            let (role, content) = [("user", "hi"), ("assistant", "yes")][at % 2];
            Ordered::from(&super::message(role, content))
        });
        let variables = [
            ("messages".to_owned(), Ordered::List(said.collect())),
            ("add_generation_prompt".to_owned(), Ordered::Bool(true)),
        ];
        let shares = templates.keys().map(|name| {
            let path = fixtures().join("chat_templates").join(name);
            let jinja = Jinja::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
            let (taken, most) = jinja.steps(variables.to_vec(), now);
            (
                taken as f64 / most as f64,
                format!("{name}: {taken} of {most}"),
            )
        });
        let largest = shares.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        println!("{count} messages, the largest share of steps: {largest:?}");
        assert!(largest.0 > 0.0 && largest.0 < below, "{count}: {largest:?}");
    }
}

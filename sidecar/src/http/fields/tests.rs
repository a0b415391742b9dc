//! JSON in every shape; the rule at every level.

use super::*;
use proptest::prelude::*;

fn fields(text: &str) -> Fields {
    Fields::parse(text.as_bytes()).unwrap()
}

#[test]
fn malformed_json_is_refused_with_its_position() {
    for (body, part) in [
        ("", "empty"),
        ("[1]", "must be an object, not a list"),
        ("{\"a\": }", "line 1 column 7"),
        ("{\"a\": 1,\n \"b\": tru}", "line 2 column"),
        (
            "{\"a\": 1} trailing",
            "trailing characters at line 1 column 10",
        ),
        ("{\"a\": \"\\ud800\"}", "line 1 column"),
        ("{\"a\": 1e999}", "number out of range"),
    ] {
        let error = Fields::parse(body.as_bytes()).unwrap_err();
        assert_eq!(error.status.as_u16(), 400, "{body}");
        assert!(error.message.contains(part), "{body}: {}", error.message);
    }
    let deep = "{\"a\":".repeat(1000);
    let error = Fields::parse(deep.as_bytes()).unwrap_err();
    assert!(
        error.message.contains("recursion limit"),
        "{}",
        error.message
    );
}

#[test]
fn refusals_name_field_value_and_range() {
    let error = fields(r#"{"n": 0}"#).count("n", 1..=8).unwrap_err();
    assert_eq!(error.message, "n: 0 is not a whole number from 1 to 8");
    assert_eq!(error.param.as_deref(), Some("n"));
    let error = fields(r#"{"n": -3}"#).count("n", 1..=8).unwrap_err();
    assert_eq!(error.message, "n: -3 is not a whole number from 1 to 8");
    let error = fields(r#"{"n": "two"}"#).count("n", 1..=8).unwrap_err();
    assert_eq!(
        error.message,
        "n: must be a whole number from 1 to 8, not the string \"two\""
    );
    let error = fields(r#"{"n": 1.5}"#).count("n", 1..=8).unwrap_err();
    assert_eq!(
        error.message,
        "n: must be a whole number from 1 to 8, not 1.5"
    );
    let error = fields(r#"{"t": -0.5}"#).number("t", 0.0..=2.0).unwrap_err();
    assert_eq!(error.message, "t: -0.5 is not a number from 0 to 2");
    let error = fields(r#"{"s": [1]}"#).string("s").unwrap_err();
    assert_eq!(error.message, "s: must be a string, not a list");
    let error = fields(r#"{"n": 99999999999999999999999}"#)
        .count("n", 1..=8)
        .unwrap_err();
    assert!(
        error.message.starts_with("n: must be a whole number"),
        "{}",
        error.message
    );
}

#[test]
fn unknown_fields_are_refused_by_name_and_nulls_are_absent() {
    let error = fields(r#"{"a": null, "frobnicate": 1}"#)
        .finish()
        .unwrap_err();
    assert_eq!(error.param.as_deref(), Some("frobnicate"));
    assert_eq!(error.code, Some("unsupported_parameter"));
    let mut absent = fields(r#"{"a": null}"#);
    assert_eq!(absent.number("a", 0.0..=1.0).unwrap(), None);
    absent.finish().unwrap();
}

const TABLE: Table = &[
    ("a", Decision::Honoured),
    ("penalty", Decision::Only(&["1.0"])),
    ("tools", Decision::Only(&["[]"])),
    ("store", Decision::Only(&["false"])),
    ("prefix", Decision::Only(&[])),
    ("user", Decision::Harmless),
];

#[test]
fn a_neutral_value_is_the_fields_own() {
    for body in [
        r#"{"a": 1, "penalty": 1, "tools": [], "store": false, "user": {"x": [1]}}"#,
        r#"{"a": 1, "penalty": 1.0, "tools": null, "prefix": null}"#,
    ] {
        let mut settled = fields(body);
        settled.settle(&[&[], TABLE]).unwrap();
        assert_eq!(settled.integer("a", 0..=1).unwrap(), Some(1));
        settled.finish().unwrap();
    }
    for (body, param, part) in [
        // What means nothing for one field means something for another.
        (r#"{"tools": false}"#, "tools", "only [] is supported"),
        (r#"{"penalty": false}"#, "penalty", "only 1.0"),
        (r#"{"penalty": 0}"#, "penalty", "only 1.0"),
        (r#"{"prefix": false}"#, "prefix", "not supported"),
        (r#"{"store": true}"#, "store", "only false"),
        (r#"{"frobnicate": false}"#, "frobnicate", "no such"),
        (r#"{"frobnicate": {}}"#, "frobnicate", "no such"),
    ] {
        let error = fields(body).settle(&[TABLE]).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{body}");
        assert_eq!(error.code, Some("unsupported_parameter"));
        assert!(error.message.contains(part), "{body}: {}", error.message);
    }
    let mut forgotten = fields(r#"{"a": 1}"#);
    forgotten.settle(&[TABLE]).unwrap();
    assert_eq!(forgotten.finish().unwrap_err().param.as_deref(), Some("a"));
}

#[test]
fn nested_objects_obey_the_same_rule_and_name_their_place() {
    let mut outer = fields(r#"{"o": {"a": 1.5, "x": 1}, "l": 3}"#);
    let mut inner = outer.object("o").unwrap().unwrap();
    let error = inner.integer("a", 0..=3).unwrap_err();
    assert!(error.message.starts_with("o.a: must be a whole number"));
    let error = inner.settle(&[TABLE]).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("o.x"));
    let error = outer.object("l").unwrap_err();
    assert_eq!(error.message, "l: must be an object, not 3");
    let item = Fields::of("messages[3]", serde_json::json!({"prefix": true}));
    let error = item.unwrap().settle(&[TABLE]).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages[3].prefix"));
}

#[test]
fn a_whole_float_is_a_whole_number_and_a_string_is_none() {
    assert_eq!(fields(r#"{"n": 2.0}"#).count("n", 1..=8).unwrap(), Some(2));
    assert_eq!(
        fields(r#"{"n": 1e3}"#).integer("n", 0..=1000).unwrap(),
        Some(1000)
    );
    for body in [r#"{"n": "2"}"#, r#"{"n": 1e300}"#, r#"{"n": true}"#] {
        let error = fields(body).integer("n", 0..=9).unwrap_err();
        assert!(error.message.starts_with("n: must be a whole"), "{body}");
    }
    let error = fields(r#"{"t": "0.5"}"#)
        .number("t", 0.0..=2.0)
        .unwrap_err();
    assert!(error.message.contains("not the string \"0.5\""));
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_or_refused(body in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Err(error) = Fields::parse(&body) {
            prop_assert_eq!(error.status.as_u16(), 400);
        }
    }
}

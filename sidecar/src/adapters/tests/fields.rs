//! Every field of PEFT's class has a decision, and the table says which.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::fields::{Decision, all, decision};
use super::fixtures;

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ADAPTER_FIELDS.md");

fn known() -> Value {
    let bytes = std::fs::read(fixtures().join("adapter_fields.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[test]
fn every_field_that_peft_knows_is_decided_about() {
    let known = known();
    let fields = known["defaults"].as_object().unwrap();
    let missing: Vec<_> = fields
        .keys()
        .filter(|field| decision(field).is_none())
        .collect();
    assert!(missing.is_empty(), "undecided: {missing:?}");
    assert_eq!(fields.len(), 41);
}

#[test]
fn the_table_of_adapter_fields_is_current() {
    let known = known();
    let mut table = format!(
        "# Fields of an adapter_config.json\n\nEvery field of PEFT {}'s LoraConfig with its default, \
         and what is done about it when an adapter is merged (`plimsoll-sidecar serve --adapter`). A \
         field that is not in this table is refused by name, unless it is null, false or empty. \
         `src/adapters/fields.rs` is where it stands, and a test holds this page to it.\n\n\
         What a merge comes to is proved while it is read: every row against base and adapter side by \
         side on a vector of signs, in f64, within the rounding of a row of f32 (of DoRA: its direction, \
         and its length where a rank has whole rows); every number against what its type rounds it to; \
         what rounding leaves, of which a tenth must be left (the distance to what was meant, to that of \
         the base alone); and that a probe is answered otherwise than by the base. Logits of base and \
         unmerged adapter are not computed: they differ from merged ones by the rounding of every layer, \
         which in BF16 is often more than an adapter adds, so a row's own answer is the sharper check.\n\n\
         | Field | Default | Here |\n|---|---|---|\n",
        known["peft"].as_str().unwrap()
    );
    for (field, decision) in all() {
        let default = known["defaults"]
            .get(field)
            .map_or("-".to_owned(), Value::to_string);
        let words = match decision {
            Decision::Honoured(what) => format!("honoured: {what}"),
            Decision::Harmless(why) => format!("accepted: {why}"),
            Decision::Refused(why) => format!("refused: {why}"),
        };
        writeln!(table, "| `{field}` | {default} | {words} |").unwrap();
    }
    let committed = std::fs::read_to_string(TABLE).unwrap_or_default();
    if committed != table {
        let path = std::env::temp_dir().join("ADAPTER_FIELDS.md");
        std::fs::write(&path, table).unwrap();
        panic!("{TABLE} is not current: copy {} over it", path.display());
    }
}

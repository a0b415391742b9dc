//! Filters that compare items with one another.

use std::cmp::Ordering;

use super::super::arguments::{Args, needed};
use super::super::compare::{equal, order};
use super::super::error::{Stop, failed};
use super::super::value::{Dict, Value};
use super::numbers::extreme;
use super::{attribute_of, folded};

pub(super) fn apply(name: &str, value: &Value, args: Args) -> Result<Value, Stop> {
    let truth = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    match name {
        "sort" => {
            let names = ["reverse", "case_sensitive", "attribute"];
            let [reverse, case, attribute] = args.bind(name, names)?;
            let case = truth(case);
            let mut keyed = Vec::new();
            for item in value.items()? {
                keyed.push((sort_key(&item, attribute.as_ref(), case)?, item));
            }
            Ok(values(sorted(keyed, truth(reverse))?))
        }
        "dictsort" => {
            let [case, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"])?;
            let Value::Dict(dict) = value else {
                return failed(format!(
                    "'{}' object has no attribute 'items'",
                    value.type_name()
                ));
            };
            let by_value = match by.as_ref().map_or(Some("key"), Value::as_str) {
                Some("key") => false,
                Some("value") => true,
                _ => return failed("you can only sort by either \"key\" or \"value\""),
            };
            let case = truth(case);
            let keyed = dict.iter().map(|(key, value)| {
                let by = if by_value { value } else { key };
                let pair = Value::tuple(vec![key.clone(), value.clone()]);
                (folded(by.clone(), case), pair)
            });
            Ok(values(sorted(keyed.collect(), truth(reverse))?))
        }
        "min" | "max" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let keyed = keyed(value, attribute.as_ref(), None, truth(case))?;
            extreme(keyed, name == "max")
        }
        "unique" => {
            let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let mut seen = Dict::default();
            let mut kept = Vec::new();
            for (key, item) in keyed(value, attribute.as_ref(), None, truth(case))? {
                Dict::check_key(&key)?;
                if seen.get(&key).is_none() {
                    seen.insert(key, Value::None);
                    kept.push(item);
                }
            }
            Ok(Value::once(kept))
        }
        _ => {
            let names = ["attribute", "default", "case_sensitive"];
            let [attribute, default, case] = args.bind(name, names)?;
            let attribute = needed(attribute, name, "attribute")?;
            group(value, &attribute, default.as_ref(), truth(case))
        }
    }
}

fn keyed(
    value: &Value,
    attribute: Option<&Value>,
    default: Option<&Value>,
    case: bool,
) -> Result<Vec<(Value, Value)>, Stop> {
    let pair = |item: Value| {
        let key = attribute_of(&item, attribute, default)?;
        Ok((folded(key, case), item))
    };
    value.items()?.into_iter().map(pair).collect()
}

/// One key per attribute: `a,b` sorts by two.
fn sort_key(item: &Value, attribute: Option<&Value>, case: bool) -> Result<Value, Stop> {
    let attributes = match attribute {
        Some(Value::Str(names)) => names
            .split(',')
            .map(|name| Some(Value::str(name)))
            .collect(),
        other => vec![other.cloned()],
    };
    let mut keys = Vec::new();
    for attribute in attributes {
        keys.push(folded(attribute_of(item, attribute.as_ref(), None)?, case));
    }
    Ok(Value::list(keys))
}

fn sorted(mut keyed: Vec<(Value, Value)>, reverse: bool) -> Result<Vec<(Value, Value)>, Stop> {
    let mut problem = None;
    keyed.sort_by(|(a, _), (b, _)| {
        let found = match order(a, b, "<") {
            Ok(order) => order.unwrap_or(Ordering::Equal),
            Err(stop) => {
                problem.get_or_insert(stop);
                Ordering::Equal
            }
        };
        if reverse { found.reverse() } else { found }
    });
    problem.map_or(Ok(keyed), Err)
}

fn values(keyed: Vec<(Value, Value)>) -> Value {
    Value::list(keyed.into_iter().map(|(_, value)| value).collect())
}

fn group(
    value: &Value,
    attribute: &Value,
    default: Option<&Value>,
    case: bool,
) -> Result<Value, Stop> {
    let keyed = sorted(keyed(value, Some(attribute), default, case)?, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in keyed {
        match groups.last_mut() {
            Some((last, items)) if equal(last, &key) => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut out = Vec::new();
    for (key, items) in groups {
        // The group is called as its first item is, not in small letters.
        let shown = match items.first() {
            Some(first) if !case => attribute_of(first, Some(attribute), default)?,
            _ => key,
        };
        out.push(Value::tuple(vec![shown, Value::list(items)]));
    }
    Ok(Value::list(out))
}

//! The arguments of a call, and what a built-in function makes of them.

use std::sync::Arc;

use super::error::{Stop, failed};
use super::value::Value;

#[derive(Clone, Debug, Default)]
pub(super) struct Args {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// One place per parameter. A name that begins with `/` cannot be given by name.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
    ) -> Result<[Option<Value>; N], Stop> {
        if self.positional.len() > N {
            return failed(format!(
                "{function} takes at most {N} arguments, {} are given",
                self.positional.len()
            ));
        }
        let mut bound = [const { None }; N];
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|known| *known == &*name) {
                Some(at) if bound[at].is_none() => bound[at] = Some(value),
                Some(_) => {
                    return failed(format!(
                        "{function} got two values for the argument '{name}'"
                    ));
                }
                None => return failed(format!("{function} has no argument '{name}'")),
            }
        }
        Ok(bound)
    }

    /// Refuses any.
    pub(super) fn none(self, function: &str) -> Result<(), Stop> {
        self.bind::<0>(function, []).map(|_| ())
    }
}

pub(super) fn needed(value: Option<Value>, function: &str, name: &str) -> Result<Value, Stop> {
    match value {
        Some(value) => Ok(value),
        None => failed(format!("{function} lacks its argument '{name}'")),
    }
}

/// A text, as functions take that do not convert.
pub(super) fn text_of(value: &Value, function: &str) -> Result<Arc<str>, Stop> {
    match value {
        Value::Str(text) | Value::Markup(text) => Ok(Arc::clone(text)),
        Value::Undefined => failed(format!("{function} needs a text, the value is undefined")),
        other => failed(format!(
            "{function} needs a text, not {}",
            other.type_name()
        )),
    }
}

pub(super) fn whole_of(value: &Value, function: &str) -> Result<i128, Stop> {
    match (value, value.as_int()) {
        (_, Some(number)) => Ok(number),
        (Value::Undefined, _) => failed(format!(
            "{function} needs a whole number, the value is undefined"
        )),
        (other, _) => failed(format!(
            "{function} needs a whole number, not {}",
            other.type_name()
        )),
    }
}

/// A count for repetitions: below zero is none; bounded, since blanks cost a client nothing.
pub(super) fn size_of(value: &Value, function: &str) -> Result<usize, Stop> {
    const MAX: i128 = 1 << 24;
    let number = whole_of(value, function)?;
    if number > MAX {
        return failed(format!("{function}: {number} is more than {MAX}"));
    }
    Ok(usize::try_from(number).unwrap_or(0))
}

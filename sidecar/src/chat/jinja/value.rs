//! The values of a template: Python's, as far as a chat template can meet them.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::error::{Stop, failed};
use super::{Closure, Looping, equal};

#[derive(Clone, Debug)]
pub(super) enum Value {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
    /// What `safe` and `escape` make: text that joins others only by escaping them.
    Markup(Arc<str>),
    List(Rc<Vec<Value>>),
    Tuple(Rc<Vec<Value>>),
    Dict(Rc<Dict>),
    /// `dict.keys()` and the like.
    View(View, Rc<Vec<Value>>),
    Range(Range),
    /// What filters like `map` give: can be walked once.
    Once(Rc<RefCell<VecDeque<Value>>>),
    Namespace(Rc<RefCell<Dict>>),
    Loop(Rc<Looping>),
    Macro(Rc<Closure>),
    /// A function of the environment.
    Function(&'static str),
    /// A method that was named and not called yet.
    Method(Rc<Value>, Arc<str>),
    Joiner(Rc<Joiner>),
    Cycler(Rc<Cycler>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
}

#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) separator: Arc<str>,
    pub(super) used: RefCell<bool>,
}

#[derive(Debug)]
pub(super) struct Cycler {
    pub(super) items: Vec<Value>,
    pub(super) at: RefCell<usize>,
}

impl Range {
    pub(super) fn len(&self) -> usize {
        let span = if self.step > 0 {
            self.stop - self.start
        } else {
            self.start - self.stop
        };
        let step = self.step.abs();
        usize::try_from((span + step - 1).div_euclid(step)).unwrap_or(0)
    }

    pub(super) fn get(&self, at: usize) -> Value {
        let at = i128::try_from(at).unwrap_or(0);
        Value::Int(self.start + at * self.step)
    }
}

impl Value {
    pub(super) fn str(text: &str) -> Value {
        Value::Str(Arc::from(text))
    }

    pub(super) fn list(items: Vec<Value>) -> Value {
        Value::List(Rc::new(items))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Value {
        Value::Tuple(Rc::new(items))
    }

    pub(super) fn once(items: Vec<Value>) -> Value {
        Value::Once(Rc::new(RefCell::new(items.into())))
    }

    pub(super) fn count(count: usize) -> Value {
        Value::Int(i128::try_from(count).unwrap_or(i128::MAX))
    }

    /// Python's name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Markup(_) => "Markup",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::View(View::Keys, _) => "dict_keys",
            Value::View(View::Values, _) => "dict_values",
            Value::View(View::Items, _) => "dict_items",
            Value::Range(_) => "range",
            Value::Once(_) => "generator",
            Value::Namespace(_) => "Namespace",
            Value::Loop(_) => "LoopContext",
            Value::Macro(_) => "Macro",
            Value::Function(_) => "function",
            Value::Method(..) => "builtin_function_or_method",
            Value::Joiner(_) => "Joiner",
            Value::Cycler(_) => "Cycler",
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Undefined | Value::None => false,
            Value::Bool(flag) => *flag,
            Value::Int(number) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Str(text) | Value::Markup(text) => !text.is_empty(),
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => !items.is_empty(),
            Value::Dict(dict) => dict.len() > 0,
            Value::Range(range) => range.len() > 0,
            // Whoever asks is inside of it.
            Value::Loop(_) => true,
            _ => true,
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) | Value::Markup(text) => Some(text),
            _ => None,
        }
    }

    /// As a whole number: Python's booleans are numbers.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Bool(flag) => Some(i128::from(*flag)),
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(number) => Some(*number),
            #[expect(clippy::cast_precision_loss, reason = "as Python's float(int)")]
            other => other.as_int().map(|number| number as f64),
        }
    }

    /// How many items it holds: Python's `len`.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Value::Undefined => Some(0),
            Value::Str(text) | Value::Markup(text) => Some(text.chars().count()),
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => Some(items.len()),
            Value::Dict(dict) => Some(dict.len()),
            Value::Range(range) => Some(range.len()),
            // A filter has read it to its end before, see `Interpreter::look_ahead`.
            Value::Loop(looping) => Some(looping.items.borrow().len()),
            _ => None,
        }
    }

    /// The items that a loop over it sees.
    pub(super) fn items(&self) -> Result<Vec<Value>, Stop> {
        Ok(match self {
            Value::Undefined => Vec::new(),
            Value::Str(text) | Value::Markup(text) => text
                .chars()
                .map(|c| Value::str(c.encode_utf8(&mut [0; 4])))
                .collect(),
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => items.to_vec(),
            Value::Dict(dict) => dict.keys().cloned().collect(),
            Value::Range(range) => (0..range.len()).map(|at| range.get(at)).collect(),
            Value::Once(items) => items.borrow_mut().drain(..).collect(),
            other => return failed(format!("'{}' object is not iterable", other.type_name())),
        })
    }

    pub(super) fn is_callable(&self) -> bool {
        matches!(
            self,
            Value::Macro(_)
                | Value::Function(_)
                | Value::Method(..)
                | Value::Joiner(_)
                | Value::Loop(_)
                | Value::Undefined
        )
    }
}

/// A dict: keys in the order of their first insertion.
#[derive(Clone, Debug, Default)]
pub(super) struct Dict {
    entries: Vec<(Value, Value)>,
    /// Places of the keys that are strings; the few others are looked for.
    places: HashMap<Arc<str>, usize>,
}

impl Dict {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        self.place(key).map(|at| &self.entries[at].1)
    }

    pub(super) fn get_str(&self, key: &str) -> Option<&Value> {
        self.places.get(key).map(|at| &self.entries[*at].1)
    }

    pub(super) fn insert(&mut self, key: Value, value: Value) {
        if let Some(at) = self.place(&key) {
            self.entries[at].1 = value;
            return;
        }
        if let Value::Str(text) = &key {
            self.places.insert(Arc::clone(text), self.entries.len());
        }
        self.entries.push((key, value));
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Value> {
        self.entries.iter().map(|(key, _)| key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Value, Value)> {
        self.entries.iter()
    }

    fn place(&self, key: &Value) -> Option<usize> {
        match key {
            Value::Str(text) | Value::Markup(text) => self.places.get(text).copied(),
            other => self.entries.iter().position(|(key, _)| equal(key, other)),
        }
    }

    /// Checks that Python takes `key` as a key.
    pub(super) fn check_key(key: &Value) -> Result<(), Stop> {
        match key {
            Value::List(_) | Value::Dict(_) => {
                failed(format!("unhashable type: '{}'", key.type_name()))
            }
            Value::Tuple(items) => items.iter().try_for_each(Dict::check_key),
            _ => Ok(()),
        }
    }
}

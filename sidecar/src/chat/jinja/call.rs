//! What can be called: macros, functions, methods, recursive loops.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::Interpreter;
use super::arguments::Args;
use super::error::{Stop, failed};
use super::scope::Scope;
use super::syntax::{For, Macro};
use super::value::{Dict, Value};
use super::{functions, methods};

/// Calls inside one another: schemas nest, honest ones less.
const CALLS_MAX: usize = 40;

/// A macro with the scope it was written in: it sees what is set there later, too.
#[derive(Debug)]
pub(super) struct Closure {
    pub(super) definition: Arc<Macro>,
    pub(super) scope: Rc<Scope>,
}

/// A loop on its way. Like Jinja2's it reads its items as it goes, and ahead only for who asks.
#[derive(Debug)]
pub(super) struct Looping {
    /// Read so far, those that the loop's condition leaves out not among them.
    pub(super) items: RefCell<Vec<Value>>,
    /// What is still to be read. A generator is everybody's who holds it.
    pub(super) rest: Rc<RefCell<VecDeque<Value>>>,
    pub(super) at: Cell<usize>,
    pub(super) depth: usize,
    pub(super) node: Arc<For>,
    pub(super) scope: Rc<Scope>,
    pub(super) changed: RefCell<Option<Vec<Value>>>,
}

impl Interpreter {
    pub(super) fn call(&mut self, callee: &Value, args: Args) -> Result<Value, Stop> {
        self.step()?;
        if self.calls >= CALLS_MAX {
            return failed(format!("calls nested deeper than {CALLS_MAX}"));
        }
        self.calls += 1;
        let result = match callee {
            Value::Macro(closure) => self.call_macro(closure, args),
            Value::Function(name) => functions::call(self, name, args),
            Value::Method(receiver, name) => methods::call(self, receiver, name, args),
            Value::Loop(looping) => self.recurse(looping, args),
            Value::Joiner(joiner) => args.none("joiner").map(|()| {
                if joiner.used.replace(true) {
                    Value::Str(Arc::clone(&joiner.separator))
                } else {
                    Value::str("")
                }
            }),
            Value::Undefined => failed("what is called is undefined"),
            other => failed(format!("'{}' object is not callable", other.type_name())),
        };
        self.calls -= 1;
        result
    }

    fn recurse(&mut self, looping: &Rc<Looping>, args: Args) -> Result<Value, Stop> {
        if !looping.node.recursive {
            return failed("tried to call a loop that is not marked recursive");
        }
        let [items] = args.bind("loop", ["iterable"])?;
        let items = super::arguments::needed(items, "loop", "iterable")?;
        let mut text = String::new();
        let (node, scope) = (Arc::clone(&looping.node), Rc::clone(&looping.scope));
        self.run_loop(&node, &items, looping.depth + 1, &scope, &mut text)?;
        Ok(Value::str(&text))
    }

    fn call_macro(&mut self, closure: &Closure, args: Args) -> Result<Value, Stop> {
        let Macro {
            name,
            parameters,
            uses_caller,
            uses_varargs,
            uses_kwargs,
            body,
        } = &*closure.definition;
        let shown = name.as_deref().unwrap_or("caller");
        let scope = Scope::inside(&closure.scope);
        let Args {
            mut positional,
            mut named,
        } = args;
        let rest = if positional.len() > parameters.len() {
            positional.split_off(parameters.len())
        } else {
            Vec::new()
        };
        let mut given: Vec<Option<Value>> = positional.into_iter().map(Some).collect();
        for (parameter, _) in &parameters[given.len()..] {
            let at = named.iter().position(|(name, _)| name == parameter);
            given.push(at.map(|at| named.remove(at).1));
        }
        if *uses_caller && !parameters.iter().any(|(name, _)| &**name == "caller") {
            let at = named.iter().position(|(name, _)| &**name == "caller");
            let caller = at.map_or(Value::Undefined, |at| named.remove(at).1);
            scope.set(&Arc::from("caller"), caller);
        }
        if *uses_kwargs {
            let mut dict = Dict::default();
            for (name, value) in named {
                dict.insert(Value::Str(name), value);
            }
            scope.set(&Arc::from("kwargs"), Value::Dict(Rc::new(dict)));
        } else if let Some((name, _)) = named.first() {
            return failed(format!(
                "macro '{shown}' takes no keyword argument '{name}'"
            ));
        }
        if *uses_varargs {
            scope.set(&Arc::from("varargs"), Value::tuple(rest));
        } else if !rest.is_empty() {
            return failed(format!(
                "macro '{shown}' takes not more than {} argument(s)",
                parameters.len()
            ));
        }
        for ((name, _), value) in parameters.iter().zip(&given) {
            scope.set(name, value.clone().unwrap_or(Value::Undefined));
        }
        for ((name, default), value) in parameters.iter().zip(&given) {
            if let (None, Some(default)) = (value, default) {
                let value = self.evaluate(default, &scope)?;
                scope.set(name, value);
            }
        }
        let mut text = String::new();
        self.execute(body, &scope, &mut text)?;
        Ok(Value::str(&text))
    }
}

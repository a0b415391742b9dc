//! Variables: scopes inside one another, as Jinja2's code nests Python functions.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::function_named;
use super::value::Value;

#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Few: a loop makes a scope per round.
    names: RefCell<Vec<(Arc<str>, Value)>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub(super) fn inside(parent: &Rc<Scope>) -> Rc<Scope> {
        Rc::new(Scope {
            names: RefCell::default(),
            parent: Some(Rc::clone(parent)),
        })
    }

    pub(super) fn set(&self, name: &Arc<str>, value: Value) {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(known, _)| known == name) {
            Some((_, place)) => *place = value,
            None => names.push((Arc::clone(name), value)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Value {
        let mut scope = Some(self);
        while let Some(inside) = scope {
            let names = inside.names.borrow();
            if let Some((_, found)) = names.iter().find(|(known, _)| &**known == name) {
                return found.clone();
            }
            scope = inside.parent.as_deref();
        }
        function_named(name).map_or(Value::Undefined, Value::Function)
    }
}

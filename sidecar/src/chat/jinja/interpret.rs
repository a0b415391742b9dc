//! Runs statements. Steps, output and nesting are bounded here; bytes by the process around.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::arguments::Args;
use super::error::{Cause, Stop, failed};
use super::scope::Scope;
use super::syntax::{Body, Expr, For, Stmt, StmtKind, Target};
use super::text::text;
use super::value::{Dict, Value};
use super::{Closure, Looping};
use crate::chat::Ordered;

#[derive(Debug)]
pub(super) struct Interpreter {
    steps: u64,
    steps_max: u64,
    bytes_max: usize,
    /// Seconds since 1970 for `strftime_now`.
    pub(super) now: u64,
    pub(super) calls: usize,
    /// Texts of the filtered blocks around.
    pub(super) blocks: Vec<Value>,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Break,
    Continue,
}

impl Interpreter {
    pub(super) fn new(steps_max: u64, bytes_max: usize, now: u64) -> Interpreter {
        Interpreter {
            steps: steps_max,
            steps_max,
            bytes_max,
            now,
            calls: 0,
            blocks: Vec::new(),
        }
    }

    pub(super) fn run(
        &mut self,
        body: &Body,
        variables: Vec<(String, Ordered)>,
    ) -> Result<String, Stop> {
        let scope = Rc::new(Scope::default());
        for (name, value) in variables {
            scope.set(&Arc::from(name), value_of(value));
        }
        // What the template sets at its top level does not replace what it was given.
        let scope = Scope::inside(&scope);
        let mut out = String::new();
        self.execute(body, &scope, &mut out)?;
        Ok(out)
    }

    pub(super) fn step(&mut self) -> Result<(), Stop> {
        self.steps_of(1)
    }

    /// Work that grows with `count` takes as many steps.
    pub(super) fn steps_of(&mut self, count: usize) -> Result<(), Stop> {
        match self.steps.checked_sub(count as u64) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => {
                let message = format!("it did not end within {} steps", self.steps_max);
                Err(Stop::new(Cause::Steps, message))
            }
        }
    }

    #[cfg(test)]
    pub(super) fn steps_left(&self) -> u64 {
        self.steps
    }

    fn write(&self, out: &mut String, text: &str) -> Result<(), Stop> {
        if out.len() + text.len() > self.bytes_max {
            return Err(Stop::new(Cause::Full, "it wrote too much"));
        }
        out.push_str(text);
        Ok(())
    }

    pub(super) fn execute(
        &mut self,
        body: &Body,
        scope: &Rc<Scope>,
        out: &mut String,
    ) -> Result<Flow, Stop> {
        for statement in body {
            let flow = self
                .statement(statement, scope, out)
                .map_err(|stop| stop.at(statement.line))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn statement(
        &mut self,
        statement: &Stmt,
        scope: &Rc<Scope>,
        out: &mut String,
    ) -> Result<Flow, Stop> {
        self.step()?;
        match &statement.kind {
            StmtKind::Data(data) => self.write(out, data)?,
            StmtKind::Print(value) => {
                let value = self.evaluate(value, scope)?;
                match value.as_str() {
                    Some(text) => self.write(out, text)?,
                    None => self.write(out, &text(&value)?)?,
                }
            }
            StmtKind::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.evaluate(condition, scope)?.is_true() {
                        return self.execute(body, scope, out);
                    }
                }
                return self.execute(otherwise, scope, out);
            }
            StmtKind::For(node) => {
                let over = self.evaluate(&node.over, scope)?;
                self.run_loop(node, &over, 0, scope, out)?;
            }
            StmtKind::Set(target, value) => {
                let value = self.evaluate(value, scope)?;
                assign(target, value, scope)?;
            }
            StmtKind::SetBlock(target, filters, body) => {
                let value = self.captured(filters.as_ref(), body, scope)?;
                assign(target, value, scope)?;
            }
            StmtKind::FilterBlock(filters, body) => {
                let value = self.captured(Some(filters), body, scope)?;
                self.write(out, &text(&value)?)?;
            }
            StmtKind::With(pairs, body) => {
                let inner = Scope::inside(scope);
                for (target, value) in pairs {
                    let value = self.evaluate(value, scope)?;
                    assign(target, value, &inner)?;
                }
                return self.execute(body, &inner, out);
            }
            StmtKind::Macro(definition) => {
                let closure = Value::Macro(Rc::new(Closure {
                    definition: Arc::clone(definition),
                    scope: Rc::clone(scope),
                }));
                if let Some(name) = &definition.name {
                    scope.set(name, closure);
                }
            }
            StmtKind::CallBlock(call, definition) => {
                let caller = Value::Macro(Rc::new(Closure {
                    definition: Arc::clone(definition),
                    scope: Rc::clone(scope),
                }));
                let caller = (Arc::from("caller"), caller);
                let value = self.evaluate_call(call, Some(caller), scope)?;
                self.write(out, &text(&value)?)?;
            }
            StmtKind::Scope(body) => {
                self.execute(body, &Scope::inside(scope), out)?;
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn captured(
        &mut self,
        filters: Option<&Expr>,
        body: &Body,
        scope: &Rc<Scope>,
    ) -> Result<Value, Stop> {
        let mut text = String::new();
        self.execute(body, &Scope::inside(scope), &mut text)?;
        let text = Value::str(&text);
        let Some(filters) = filters else {
            return Ok(text);
        };
        self.blocks.push(text);
        let value = self.evaluate(filters, scope);
        self.blocks.pop();
        value
    }

    pub(super) fn run_loop(
        &mut self,
        node: &Arc<For>,
        over: &Value,
        depth: usize,
        scope: &Rc<Scope>,
        out: &mut String,
    ) -> Result<(), Stop> {
        let rest = match over {
            Value::Once(items) => Rc::clone(items),
            other => Rc::new(RefCell::new(other.items()?.into())),
        };
        let looping = Rc::new(Looping {
            items: RefCell::new(Vec::new()),
            rest,
            at: Cell::new(0),
            depth,
            node: Arc::clone(node),
            scope: Rc::clone(scope),
            changed: RefCell::new(None),
        });
        // Nothing decides about these items later.
        if node.condition.is_none() && !matches!(over, Value::Once(_)) {
            let all = looping.rest.borrow_mut().drain(..).collect();
            looping.items.replace(all);
        }
        let mut ran = false;
        for at in 0.. {
            if !self.read_to(&looping, at)? {
                break;
            }
            self.step()?;
            looping.at.set(at);
            let item = looping.items.borrow()[at].clone();
            let inner = Scope::inside(scope);
            inner.set(&Arc::from("loop"), Value::Loop(Rc::clone(&looping)));
            assign(&node.target, item, &inner)?;
            match self.execute(&node.body, &inner, out)? {
                // Jinja2 counts a round where it ends: one that is left early does not.
                Flow::On => ran = true,
                Flow::Continue => {}
                Flow::Break => break,
            }
        }
        if !ran {
            self.execute(&node.otherwise, scope, out)?;
        }
        Ok(())
    }

    /// Reads the loop's items up to `at`; whether there are so many.
    fn read_to(&mut self, looping: &Looping, at: usize) -> Result<bool, Stop> {
        while looping.items.borrow().len() <= at {
            self.step()?;
            let Some(item) = looping.rest.borrow_mut().pop_front() else {
                return Ok(false);
            };
            if self.holds(&looping.node, &item, &looping.scope)? {
                looping.items.borrow_mut().push(item);
            }
        }
        Ok(true)
    }

    /// Reads ahead as far as an attribute of the loop tells of what comes.
    pub(super) fn look_ahead(&mut self, looping: &Looping, name: &str) -> Result<(), Stop> {
        let to = match name {
            "last" | "nextitem" => looping.at.get() + 1,
            "length" | "revindex" | "revindex0" => usize::MAX,
            _ => return Ok(()),
        };
        self.read_to(looping, to).map(|_| ())
    }

    fn holds(&mut self, node: &For, item: &Value, scope: &Rc<Scope>) -> Result<bool, Stop> {
        let Some(condition) = &node.condition else {
            return Ok(true);
        };
        let inner = Scope::inside(scope);
        assign(&node.target, item.clone(), &inner)?;
        Ok(self.evaluate(condition, &inner)?.is_true())
    }

    /// The arguments of a filter or test that is named by a text.
    pub(super) fn rest_of(args: Args, taken: usize) -> Args {
        Args {
            positional: args.positional.into_iter().skip(taken).collect(),
            named: args.named,
        }
    }
}

fn assign(target: &Target, value: Value, scope: &Rc<Scope>) -> Result<(), Stop> {
    match target {
        Target::Name(name) => scope.set(name, value),
        Target::Attr(namespace, attribute) => {
            let Value::Namespace(namespace) = scope.get(namespace) else {
                return failed("cannot assign attribute on non-namespace object");
            };
            if attribute.starts_with('_') {
                return failed(format!("a namespace stores no attribute '{attribute}'"));
            }
            let key = Value::Str(Arc::clone(attribute));
            namespace.borrow_mut().insert(key, value);
        }
        Target::Tuple(targets) => {
            let items = value.items()?;
            if items.len() != targets.len() {
                return failed(format!(
                    "{} values cannot be unpacked into {}",
                    items.len(),
                    targets.len()
                ));
            }
            for (target, item) in targets.iter().zip(items) {
                assign(target, item, scope)?;
            }
        }
    }
    Ok(())
}

/// A value of JSON as Python reads it.
fn value_of(json: Ordered) -> Value {
    match json {
        Ordered::Null => Value::None,
        Ordered::Bool(flag) => Value::Bool(flag),
        Ordered::Int(number) => Value::Int(number),
        Ordered::Float(number) => Value::Float(number),
        Ordered::Text(text) => Value::Str(Arc::from(text)),
        Ordered::List(items) => Value::list(items.into_iter().map(value_of).collect()),
        Ordered::Object(fields) => {
            let mut dict = Dict::default();
            for (name, value) in fields {
                dict.insert(Value::Str(Arc::from(name)), value_of(value));
            }
            Value::Dict(Rc::new(dict))
        }
    }
}

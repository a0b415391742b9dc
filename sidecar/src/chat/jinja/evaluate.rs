//! Evaluates expressions.

use std::rc::Rc;
use std::sync::Arc;

use super::arguments::Args;
use super::error::{Stop, failed};
use super::interpret::Interpreter;
use super::scope::Scope;
use super::syntax::{Arguments, Const, Expr};
use super::text::{names_of, text};
use super::value::{Dict, Value};
use super::{access, arithmetic, compare, filters, tests_of_values};

impl Interpreter {
    pub(super) fn evaluate(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<Value, Stop> {
        self.step()?;
        Ok(match expr {
            Expr::Const(constant) => match constant {
                Const::None => Value::None,
                Const::Bool(flag) => Value::Bool(*flag),
                Const::Int(number) => Value::Int(*number),
                Const::Float(number) => Value::Float(*number),
                Const::Str(text) => Value::Str(Arc::clone(text)),
            },
            Expr::Name(name) => scope.get(name),
            Expr::List(items) => Value::list(self.evaluate_all(items, scope)?),
            Expr::Tuple(items) => Value::tuple(self.evaluate_all(items, scope)?),
            Expr::Dict(entries) => {
                let mut dict = Dict::default();
                for (key, value) in entries {
                    let key = self.evaluate(key, scope)?;
                    Dict::check_key(&key)?;
                    let value = self.evaluate(value, scope)?;
                    dict.insert(key, value);
                }
                Value::Dict(Rc::new(dict))
            }
            Expr::Attr(value, name) => {
                let value = self.evaluate(value, scope)?;
                if let Value::Loop(looping) = &value {
                    self.look_ahead(looping, name)?;
                }
                access::attribute(&value, name)?
            }
            Expr::Item(value, key) => {
                let value = self.evaluate(value, scope)?;
                let key = self.evaluate(key, scope)?;
                if let (Value::Loop(looping), Some(name)) = (&value, key.as_str()) {
                    self.look_ahead(looping, name)?;
                }
                access::item(&value, &key)?
            }
            Expr::Slice(value, parts) => {
                let value = self.evaluate(value, scope)?;
                self.steps_of(value.len().unwrap_or(0) / 64)?;
                let mut bounds = [None, None, None];
                for (bound, part) in bounds.iter_mut().zip(parts) {
                    if let Some(part) = part {
                        *bound = Some(self.evaluate(part, scope)?);
                    }
                }
                access::slice(&value, bounds)?
            }
            Expr::Call(..) => self.evaluate_call(expr, None, scope)?,
            Expr::Filter(value, name, arguments) => {
                let value = match value {
                    Some(value) => self.evaluate(value, scope)?,
                    None => self.blocks.last().cloned().unwrap_or(Value::Undefined),
                };
                let args = self.arguments(arguments, scope)?;
                if let Value::Loop(looping) = &value {
                    self.look_ahead(looping, "length")?;
                }
                filters::apply(self, name, value, args)?
            }
            Expr::Test(value, name, arguments) => {
                let value = self.evaluate(value, scope)?;
                let args = self.arguments(arguments, scope)?;
                Value::Bool(tests_of_values::holds(name, &value, args)?)
            }
            Expr::Not(value) => Value::Bool(!self.evaluate(value, scope)?.is_true()),
            Expr::Negative(value) => arithmetic::negative(&self.evaluate(value, scope)?)?,
            Expr::Positive(value) => arithmetic::positive(&self.evaluate(value, scope)?)?,
            Expr::And(items) => self.first_that(items, false, scope)?,
            Expr::Or(items) => self.first_that(items, true, scope)?,
            Expr::If(parts, otherwise) => {
                let [condition, value] = &**parts;
                if self.evaluate(condition, scope)?.is_true() {
                    self.evaluate(value, scope)?
                } else if let Some(otherwise) = otherwise {
                    self.evaluate(otherwise, scope)?
                } else {
                    Value::Undefined
                }
            }
            Expr::Compare(first, rest) => {
                let mut left = self.evaluate(first, scope)?;
                for (comparison, right) in rest {
                    let right = self.evaluate(right, scope)?;
                    if !compare::compare(&left, *comparison, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Value::Bool(true)
            }
            Expr::Arithmetic(first, rest) => {
                let mut value = self.evaluate(first, scope)?;
                for (operator, operand) in rest {
                    let operand = self.evaluate(operand, scope)?;
                    value = arithmetic::operate(&value, *operator, &operand)?;
                }
                value
            }
            Expr::Concat(items) => {
                let mut joined = String::new();
                for item in items {
                    joined.push_str(&text(&self.evaluate(item, scope)?)?);
                }
                Value::str(&joined)
            }
        })
    }

    fn evaluate_all(&mut self, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<Value>, Stop> {
        items
            .iter()
            .map(|item| self.evaluate(item, scope))
            .collect()
    }

    /// The first value that is as true as `wanted`, else the last one.
    fn first_that(
        &mut self,
        items: &[Expr],
        wanted: bool,
        scope: &Rc<Scope>,
    ) -> Result<Value, Stop> {
        let mut value = Value::Undefined;
        for item in items {
            value = self.evaluate(item, scope)?;
            if value.is_true() == wanted {
                break;
            }
        }
        Ok(value)
    }

    /// A call, with one more named argument for blocks.
    pub(super) fn evaluate_call(
        &mut self,
        call: &Expr,
        extra: Option<(Arc<str>, Value)>,
        scope: &Rc<Scope>,
    ) -> Result<Value, Stop> {
        let Expr::Call(callee, arguments) = call else {
            return failed("expected call");
        };
        let function = self.evaluate(callee, scope)?;
        let mut args = self.arguments(arguments, scope)?;
        args.named.extend(extra);
        if matches!(function, Value::Undefined) {
            return match &**callee {
                Expr::Name(name) => failed(format!("'{name}' is undefined")),
                Expr::Attr(_, name) => {
                    failed(format!("a value has no method '{name}' for templates"))
                }
                _ => failed("what is called is undefined"),
            };
        }
        self.call(&function, args)
    }

    fn arguments(&mut self, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Args, Stop> {
        let mut args = Args {
            positional: self.evaluate_all(&arguments.positional, scope)?,
            named: Vec::new(),
        };
        for (name, value) in &arguments.named {
            let value = self.evaluate(value, scope)?;
            if args.named.iter().any(|(given, _)| given == name) {
                return failed(format!("the keyword argument '{name}' is repeated"));
            }
            args.named.push((Arc::clone(name), value));
        }
        if let Some(splat) = &arguments.splat {
            args.positional
                .extend(self.evaluate(splat, scope)?.items()?);
        }
        if let Some(splat) = &arguments.named_splat {
            let Value::Dict(dict) = self.evaluate(splat, scope)? else {
                return failed("the argument after ** must be a mapping");
            };
            for (name, value) in names_of(&dict)? {
                let name = Arc::from(name);
                if args.named.iter().any(|(given, _)| *given == name) {
                    return failed(format!("two values for the keyword argument '{name}'"));
                }
                args.named.push((name, value));
            }
        }
        Ok(args)
    }
}

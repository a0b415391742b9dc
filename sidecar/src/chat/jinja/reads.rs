//! What a template reads by name: variables, attributes, and the texts that it uses as keys. Who
//! is never named there is never read; names in comments, in what is written out, and in places
//! that are only assigned to do not count.

use std::collections::BTreeSet;

use super::syntax::{Arguments, Body, Const, Expr, Macro, StmtKind};

/// The names in `body`.
pub(super) fn reads(body: &Body) -> BTreeSet<String> {
    let mut reads = Reads::default();
    reads.body(body);
    reads.names
}

#[derive(Default)]
struct Reads {
    names: BTreeSet<String>,
}

impl Reads {
    fn body(&mut self, body: &Body) {
        for statement in body {
            match &statement.kind {
                StmtKind::Data(_) | StmtKind::Break | StmtKind::Continue => {}
                StmtKind::Print(value) => self.written(value),
                StmtKind::If(branches, otherwise) => {
                    for (condition, body) in branches {
                        self.expr(condition);
                        self.body(body);
                    }
                    self.body(otherwise);
                }
                StmtKind::For(node) => {
                    self.expr(&node.over);
                    self.all(node.condition.iter());
                    self.body(&node.body);
                    self.body(&node.otherwise);
                }
                StmtKind::Set(_, value) => self.expr(value),
                StmtKind::SetBlock(_, filters, body) => {
                    self.all(filters.iter());
                    self.body(body);
                }
                StmtKind::With(pairs, body) => {
                    self.all(pairs.iter().map(|(_, value)| value));
                    self.body(body);
                }
                StmtKind::Macro(definition) => self.definition(definition),
                StmtKind::CallBlock(call, definition) => {
                    self.expr(call);
                    self.definition(definition);
                }
                StmtKind::FilterBlock(filters, body) => {
                    self.expr(filters);
                    self.body(body);
                }
                StmtKind::Scope(body) => self.body(body),
            }
        }
    }

    fn definition(&mut self, definition: &Macro) {
        let parameters = definition.parameters.iter();
        self.all(parameters.filter_map(|(_, default)| default.as_ref()));
        self.body(&definition.body);
    }

    fn all<'a>(&mut self, exprs: impl Iterator<Item = &'a Expr>) {
        exprs.for_each(|expr| self.expr(expr));
    }

    /// What ends up in the output: its texts are no keys.
    fn written(&mut self, expr: &Expr) {
        match expr {
            Expr::Const(_) => {}
            Expr::Concat(items) => items.iter().for_each(|item| self.written(item)),
            Expr::Arithmetic(first, rest) => {
                self.written(first);
                rest.iter().for_each(|(_, operand)| self.written(operand));
            }
            Expr::If(parts, otherwise) => {
                let [condition, value] = &**parts;
                self.expr(condition);
                self.written(value);
                if let Some(otherwise) = otherwise {
                    self.written(otherwise);
                }
            }
            other => self.expr(other),
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Const(Const::Str(text)) => {
                // `map(attribute='function.name')` reads both.
                let parts = text.split('.').filter(|part| !part.is_empty());
                self.names.extend(parts.map(str::to_owned));
            }
            Expr::Const(_) => {}
            Expr::Name(name) => {
                self.names.insert(name.to_string());
            }
            Expr::List(items) | Expr::Tuple(items) | Expr::And(items) | Expr::Or(items) => {
                self.all(items.iter());
            }
            Expr::Concat(_) | Expr::Arithmetic(..) => self.written(expr),
            Expr::Dict(entries) => {
                for (key, value) in entries {
                    self.expr(key);
                    self.expr(value);
                }
            }
            Expr::Attr(value, name) => {
                self.names.insert(name.to_string());
                self.expr(value);
            }
            Expr::Item(value, key) => {
                self.expr(value);
                self.expr(key);
            }
            Expr::Slice(value, parts) => {
                self.expr(value);
                self.all(parts.iter().flatten().map(|part| &**part));
            }
            Expr::Call(callee, arguments) => {
                self.expr(callee);
                self.arguments(arguments);
            }
            Expr::Filter(value, _, arguments) => {
                self.all(value.iter().map(|value| &**value));
                self.arguments(arguments);
            }
            Expr::Test(value, _, arguments) => {
                self.expr(value);
                self.arguments(arguments);
            }
            Expr::Not(value) | Expr::Negative(value) | Expr::Positive(value) => self.expr(value),
            Expr::If(parts, otherwise) => {
                self.all(parts.iter());
                self.all(otherwise.iter().map(|otherwise| &**otherwise));
            }
            Expr::Compare(first, rest) => {
                self.expr(first);
                self.all(rest.iter().map(|(_, operand)| operand));
            }
        }
    }

    fn arguments(&mut self, arguments: &Arguments) {
        let Arguments {
            positional,
            named,
            splat,
            named_splat,
        } = arguments;
        self.all(positional.iter());
        self.all(named.iter().map(|(_, value)| value));
        self.all(splat.iter().chain(named_splat).map(|splat| &**splat));
    }
}

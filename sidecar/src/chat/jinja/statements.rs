//! Statements: the tags of a template and what stands between them.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{Stop, failed, unsupported};
use super::lexer::Token;
use super::parser::Parser;
use super::syntax::{Body, Expr, For, Macro, Parameter, Stmt, StmtKind, Target};

impl Parser {
    /// The whole template.
    pub(super) fn template(&mut self) -> Result<Body, Stop> {
        let body = self.body(&[])?;
        match self.peek() {
            None => Ok(body),
            Some(_) => failed(format!("unexpected {}", self.shown())),
        }
    }

    /// Statements up to a tag of one of these names, whose `{%` is passed and name is not.
    fn body(&mut self, ends: &[&str]) -> Result<Body, Stop> {
        let mut body = Vec::new();
        while let Some(token) = self.peek().cloned() {
            let line = self.line();
            let kind = match token {
                Token::Data(text) => {
                    self.next();
                    StmtKind::Data(Arc::from(text))
                }
                Token::VariableBegin => {
                    self.next();
                    let value = self.tuple(true, &[]).map_err(|stop| stop.at(line))?;
                    self.expect(&Token::VariableEnd).map_err(|s| s.at(line))?;
                    StmtKind::Print(value)
                }
                Token::BlockBegin => {
                    self.next();
                    if matches!(self.peek(), Some(Token::Name(name)) if ends.contains(&name.as_str()))
                    {
                        return Ok(body);
                    }
                    let parsed = self.deeper(|parser| parser.statement(&mut body, line));
                    match parsed.map_err(|stop| stop.at(self.line()))? {
                        Some(kind) => kind,
                        None => continue,
                    }
                }
                _ => return failed(format!("unexpected {}", self.shown())).map_err(|s| s.at(line)),
            };
            body.push(Stmt { line, kind });
        }
        if ends.is_empty() {
            return Ok(body);
        }
        failed(format!(
            "the template ends where {} is expected",
            ends.join(" or ")
        ))
        .map_err(|stop| stop.at(self.line()))
    }

    /// A body that ends with `end`, its tag included.
    fn body_to(&mut self, end: &str) -> Result<Body, Stop> {
        let body = self.body(&[end])?;
        self.next();
        self.block_end()?;
        Ok(body)
    }

    fn block_end(&mut self) -> Result<(), Stop> {
        self.expect(&Token::BlockEnd)
    }

    fn statement(&mut self, before: &mut Body, line: usize) -> Result<Option<StmtKind>, Stop> {
        let name = self.expect_name()?;
        Ok(Some(match &*name {
            "if" => self.conditions()?,
            "for" => self.for_loop()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => self.macro_definition()?,
            "call" => self.call_block()?,
            "filter" => {
                let filters = self.filter(None)?;
                let filters = self.filtered(filters)?;
                self.block_end()?;
                StmtKind::FilterBlock(filters, self.body_to("endfilter")?)
            }
            "print" => {
                while self.peek() != Some(&Token::BlockEnd) {
                    let value = self.expression()?;
                    let kind = StmtKind::Print(value);
                    before.push(Stmt { line, kind });
                    if !self.skip_op(",") {
                        break;
                    }
                }
                self.block_end()?;
                return Ok(None);
            }
            "generation" => {
                self.block_end()?;
                StmtKind::Scope(self.body_to("endgeneration")?)
            }
            "break" | "continue" if self.loops == 0 => {
                return failed(format!("'{name}' outside of a loop"));
            }
            "break" => {
                self.block_end()?;
                StmtKind::Break
            }
            "continue" => {
                self.block_end()?;
                StmtKind::Continue
            }
            "block" | "extends" | "include" | "import" | "from" | "autoescape" => {
                return unsupported(&format!("the tag '{name}'"));
            }
            _ => return failed(format!("encountered unknown tag '{name}'")),
        }))
    }

    fn conditions(&mut self) -> Result<StmtKind, Stop> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple(false, &[])?;
            self.block_end()?;
            let body = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            if self.skip_name("elif") {
                continue;
            }
            let otherwise = if self.skip_name("else") {
                self.block_end()?;
                let otherwise = self.body(&["endif"])?;
                self.next();
                otherwise
            } else {
                self.next();
                Vec::new()
            };
            self.block_end()?;
            return Ok(StmtKind::If(branches, otherwise));
        }
    }

    fn for_loop(&mut self) -> Result<StmtKind, Stop> {
        let target = self.target(&["in"])?;
        if names(&target, "loop") {
            return failed("can't assign to special loop variable in for-loop target");
        }
        if !self.skip_name("in") {
            return failed(format!("expected 'in', got {}", self.shown()));
        }
        let over = self.tuple(false, &["recursive"])?;
        let condition = if self.skip_name("if") {
            Some(self.expression()?)
        } else {
            None
        };
        let recursive = self.skip_name("recursive");
        self.block_end()?;
        self.loops += 1;
        let body = self.body(&["endfor", "else"]);
        self.loops -= 1;
        let body = body?;
        let otherwise = if self.skip_name("else") {
            self.block_end()?;
            self.body(&["endfor"])?
        } else {
            Vec::new()
        };
        self.next();
        self.block_end()?;
        Ok(StmtKind::For(Arc::new(For {
            target,
            over,
            condition,
            recursive,
            body,
            otherwise,
        })))
    }

    fn set(&mut self) -> Result<StmtKind, Stop> {
        let target = if self.peek_second() == Some(&Token::Op(".")) {
            let namespace = self.expect_name()?;
            self.expect_op(".")?;
            for used in &mut self.names {
                used.insert(namespace.to_string());
            }
            Target::Attr(namespace, self.expect_name()?)
        } else {
            self.target(&[])?
        };
        if self.skip_op("=") {
            let value = self.tuple(true, &[])?;
            self.block_end()?;
            return Ok(StmtKind::Set(target, value));
        }
        let filters = if self.skip_op("|") {
            let first = self.filter(None)?;
            Some(self.filtered(first)?)
        } else {
            None
        };
        self.block_end()?;
        Ok(StmtKind::SetBlock(target, filters, self.body_to("endset")?))
    }

    fn with(&mut self) -> Result<StmtKind, Stop> {
        let mut pairs = Vec::new();
        while self.peek() != Some(&Token::BlockEnd) {
            if !pairs.is_empty() {
                self.expect_op(",")?;
            }
            let target = Target::Name(self.assignable()?);
            self.expect_op("=")?;
            pairs.push((target, self.expression()?));
        }
        self.block_end()?;
        Ok(StmtKind::With(pairs, self.body_to("endwith")?))
    }

    fn macro_definition(&mut self) -> Result<StmtKind, Stop> {
        let name = self.assignable()?;
        let definition = self.definition(Some(name), "endmacro", true)?;
        Ok(StmtKind::Macro(Arc::new(definition)))
    }

    fn call_block(&mut self) -> Result<StmtKind, Stop> {
        self.names.push(BTreeSet::new());
        let parameters = if self.is_op("(") {
            self.parameters()
        } else {
            Ok(Vec::new())
        };
        let used = self.names.pop().unwrap_or_default();
        let parameters = parameters?;
        let call = self.expression()?;
        if !matches!(call, Expr::Call(..)) {
            return failed("expected call");
        }
        self.block_end()?;
        let mut definition = self.definition(None, "endcall", false)?;
        definition.parameters = parameters;
        definition.uses_caller |= used.contains("caller");
        Ok(StmtKind::CallBlock(call, Arc::new(definition)))
    }

    /// The parameters, where they come here, and the body of a macro.
    fn definition(
        &mut self,
        name: Option<Arc<str>>,
        end: &str,
        has_parameters: bool,
    ) -> Result<Macro, Stop> {
        self.names.push(BTreeSet::new());
        let loops = std::mem::take(&mut self.loops);
        let parsed = (|| {
            let parameters = if has_parameters {
                let parameters = self.parameters()?;
                self.block_end()?;
                parameters
            } else {
                Vec::new()
            };
            Ok((parameters, self.body_to(end)?))
        })();
        self.loops = loops;
        let used = self.names.pop().unwrap_or_default();
        let (parameters, body) = parsed?;
        Ok(Macro {
            name,
            parameters,
            uses_caller: used.contains("caller"),
            uses_varargs: used.contains("varargs"),
            uses_kwargs: used.contains("kwargs"),
            body,
        })
    }

    fn parameters(&mut self) -> Result<Vec<Parameter>, Stop> {
        self.expect_op("(")?;
        let mut parameters: Vec<Parameter> = Vec::new();
        while !self.is_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.assignable()?;
            let default = if self.skip_op("=") {
                Some(self.expression()?)
            } else if parameters.iter().any(|(_, default)| default.is_some()) {
                return failed("non-default argument follows default argument");
            } else {
                None
            };
            parameters.push((name, default));
        }
        self.expect_op(")")?;
        Ok(parameters)
    }

    fn assignable(&mut self) -> Result<Arc<str>, Stop> {
        let name = self.expect_name()?;
        if matches!(
            &*name,
            "true" | "false" | "none" | "True" | "False" | "None"
        ) {
            return failed(format!("can't assign to '{name}'"));
        }
        Ok(name)
    }

    /// A name, or names with commas and parentheses.
    fn target(&mut self, ends: &[&str]) -> Result<Target, Stop> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            let ended = match self.peek() {
                Some(Token::Name(name)) => ends.contains(&name.as_str()),
                Some(Token::Op("=" | ")") | Token::BlockEnd) => true,
                _ => false,
            };
            if ended {
                break;
            }
            if self.skip_op("(") {
                let inner = self.deeper(|parser| parser.target(&[]))?;
                self.expect_op(")")?;
                targets.push(inner);
            } else {
                targets.push(Target::Name(self.assignable()?));
            }
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        match targets.pop() {
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            None => failed(format!("expected a name, got {}", self.shown())),
        }
    }
}

fn names(target: &Target, name: &str) -> bool {
    match target {
        Target::Name(found) => &**found == name,
        Target::Attr(..) => false,
        Target::Tuple(items) => items.iter().any(|item| names(item, name)),
    }
}

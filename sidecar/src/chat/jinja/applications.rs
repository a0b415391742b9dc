//! What is applied to a value: the arguments of calls, filters and tests.

use std::sync::Arc;

use super::error::{Stop, failed};
use super::lexer::Token;
use super::parser::{DEPTH_MAX, Parser};
use super::syntax::{Arguments, Expr};

impl Parser {
    pub(super) fn arguments(&mut self) -> Result<Arguments, Stop> {
        self.expect_op("(")?;
        let mut found = Arguments::default();
        let mut first = true;
        while !self.is_op(")") {
            if !first {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            first = false;
            if self.skip_op("*") {
                if found.splat.is_some() || found.named_splat.is_some() {
                    return failed("invalid syntax for function call expression");
                }
                found.splat = Some(Box::new(self.expression()?));
            } else if self.skip_op("**") {
                if found.named_splat.is_some() {
                    return failed("invalid syntax for function call expression");
                }
                found.named_splat = Some(Box::new(self.expression()?));
            } else if matches!(self.peek(), Some(Token::Name(_)))
                && self.peek_second() == Some(&Token::Op("="))
                && found.named_splat.is_none()
            {
                let name = self.expect_name()?;
                self.expect_op("=")?;
                let value = self.expression()?;
                found.named.push((name, value));
            } else if found.named.is_empty() && found.splat.is_none() && found.named_splat.is_none()
            {
                found.positional.push(self.expression()?);
            } else {
                return failed("invalid syntax for function call expression");
            }
        }
        self.expect_op(")")?;
        Ok(found)
    }

    /// Filters, tests and calls behind a value.
    pub(super) fn filtered(&mut self, mut value: Expr) -> Result<Expr, Stop> {
        for _ in 0..DEPTH_MAX {
            if self.skip_op("|") {
                value = self.filter(Some(value))?;
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.is_op("(") {
                let arguments = self.arguments()?;
                value = Expr::Call(Box::new(value), arguments);
            } else {
                return Ok(value);
            }
        }
        failed(format!("more than {DEPTH_MAX} filters in a row"))
    }

    /// A filter behind its `|`. No value: the text of a filtered block.
    pub(super) fn filter(&mut self, value: Option<Expr>) -> Result<Expr, Stop> {
        let name = self.dotted()?;
        let arguments = if self.is_op("(") {
            self.arguments()?
        } else {
            Arguments::default()
        };
        if &*name == "replace"
            && let Some(first) = arguments.positional.first()
        {
            self.note(first);
        }
        Ok(Expr::Filter(value.map(Box::new), name, arguments))
    }

    fn test(&mut self, value: Expr) -> Result<Expr, Stop> {
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let mut arguments = Arguments::default();
        if self.is_op("(") {
            arguments = self.arguments()?;
        } else {
            let starts = match self.peek() {
                Some(Token::Name(name)) => {
                    if name == "is" {
                        return failed("you cannot chain multiple tests with is");
                    }
                    !matches!(name.as_str(), "else" | "or" | "and")
                }
                Some(Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Op("[" | "{")) => {
                    true
                }
                _ => false,
            };
            if starts {
                let argument = self.deeper(Parser::primary)?;
                arguments.positional.push(self.postfix(argument)?);
            }
        }
        let test = Expr::Test(Box::new(value), name, arguments);
        Ok(if negated {
            Expr::Not(Box::new(test))
        } else {
            test
        })
    }

    fn dotted(&mut self) -> Result<Arc<str>, Stop> {
        let mut name = self.expect_name()?.to_string();
        while self.skip_op(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(Arc::from(name))
    }
}

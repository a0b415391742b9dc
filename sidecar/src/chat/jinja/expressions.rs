//! Expressions, with Jinja2's ranks of operators (which are not Python's: `~` stands between `+`
//! and `*`, and a sign binds more tightly than `**`).

use std::sync::Arc;

use super::error::{Stop, failed, unsupported};
use super::lexer::Token;
use super::parser::{DEPTH_MAX, Parser};
use super::syntax::{Comparison, Const, Expr, Operator};

/// Methods whose first argument is a text that is looked for.
const SEARCHES: [&str; 13] = [
    "split",
    "rsplit",
    "partition",
    "rpartition",
    "startswith",
    "endswith",
    "find",
    "rfind",
    "index",
    "count",
    "replace",
    "removeprefix",
    "removesuffix",
];

impl Parser {
    pub(super) fn expression(&mut self) -> Result<Expr, Stop> {
        self.deeper(Parser::conditional)
    }

    /// One expression, or several with commas between: a tuple. `ends`: a name that ends it.
    pub(super) fn tuple(&mut self, conditional: bool, ends: &[&str]) -> Result<Expr, Stop> {
        self.tuple_or(conditional, ends, false)
    }

    fn tuple_or(&mut self, conditional: bool, ends: &[&str], empty: bool) -> Result<Expr, Stop> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            if self.ends_tuple(ends) {
                break;
            }
            items.push(if conditional {
                self.expression()?
            } else {
                self.deeper(Parser::or)?
            });
            if !self.is_op(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                items.push(last);
                Ok(Expr::Tuple(items))
            }
            None if empty => Ok(Expr::Tuple(items)),
            None => failed(format!("expected an expression, got {}", self.shown())),
        }
    }

    fn ends_tuple(&self, ends: &[&str]) -> bool {
        match self.peek() {
            None | Some(Token::VariableEnd | Token::BlockEnd | Token::Op(")")) => true,
            Some(Token::Name(name)) => ends.contains(&name.as_str()),
            _ => false,
        }
    }

    fn conditional(&mut self) -> Result<Expr, Stop> {
        let mut value = self.or()?;
        let mut links = 0;
        while self.skip_name("if") {
            links += 1;
            if links > DEPTH_MAX {
                return failed(format!("more than {DEPTH_MAX} conditions in a row"));
            }
            let condition = self.or()?;
            let otherwise = if self.skip_name("else") {
                Some(Box::new(self.expression()?))
            } else {
                None
            };
            value = Expr::If(Box::new([condition, value]), otherwise);
        }
        Ok(value)
    }

    pub(super) fn or(&mut self) -> Result<Expr, Stop> {
        let first = self.and()?;
        let mut items = vec![first];
        while self.skip_name("or") {
            items.push(self.and()?);
        }
        Ok(one_or(items, Expr::Or))
    }

    fn and(&mut self) -> Result<Expr, Stop> {
        let first = self.not()?;
        let mut items = vec![first];
        while self.skip_name("and") {
            items.push(self.not()?);
        }
        Ok(one_or(items, Expr::And))
    }

    fn not(&mut self) -> Result<Expr, Stop> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Parser::not)?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr, Stop> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let negated = self.is_name("not")
                && matches!(self.peek_second(), Some(Token::Name(name)) if name == "in");
            let comparison = match self.peek() {
                Some(Token::Op("==")) => Comparison::Equal,
                Some(Token::Op("!=")) => Comparison::NotEqual,
                Some(Token::Op("<")) => Comparison::Less,
                Some(Token::Op("<=")) => Comparison::LessEqual,
                Some(Token::Op(">")) => Comparison::Greater,
                Some(Token::Op(">=")) => Comparison::GreaterEqual,
                Some(Token::Name(name)) if name == "in" => Comparison::In,
                _ if negated => Comparison::NotIn,
                _ => break,
            };
            self.next();
            if negated {
                self.next();
            }
            if matches!(comparison, Comparison::In | Comparison::NotIn) && rest.is_empty() {
                self.note(&first);
            }
            rest.push((comparison, self.sum()?));
        }
        Ok(match rest.is_empty() {
            true => first,
            false => Expr::Compare(Box::new(first), rest),
        })
    }

    fn chain(
        &mut self,
        operators: &[(&str, Operator)],
        operand: fn(&mut Parser) -> Result<Expr, Stop>,
    ) -> Result<Expr, Stop> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some((op, operator)) = operators.iter().find(|(op, _)| self.is_op(op)) {
            self.expect_op(op)?;
            rest.push((*operator, operand(self)?));
        }
        Ok(match rest.is_empty() {
            true => first,
            false => Expr::Arithmetic(Box::new(first), rest),
        })
    }

    fn sum(&mut self) -> Result<Expr, Stop> {
        let operators = [("+", Operator::Add), ("-", Operator::Subtract)];
        self.chain(&operators, Parser::concat)
    }

    fn concat(&mut self) -> Result<Expr, Stop> {
        let first = self.product()?;
        let mut items = vec![first];
        while self.skip_op("~") {
            items.push(self.product()?);
        }
        Ok(one_or(items, Expr::Concat))
    }

    fn product(&mut self) -> Result<Expr, Stop> {
        let operators = [
            ("*", Operator::Multiply),
            ("/", Operator::Divide),
            ("//", Operator::FloorDivide),
            ("%", Operator::Modulo),
        ];
        self.chain(&operators, Parser::power)
    }

    fn power(&mut self) -> Result<Expr, Stop> {
        self.chain(&[("**", Operator::Power)], |parser| parser.unary(true))
    }

    fn unary(&mut self, filtered: bool) -> Result<Expr, Stop> {
        let value = if self.skip_op("-") {
            Expr::Negative(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else if self.skip_op("+") {
            Expr::Positive(Box::new(self.deeper(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if filtered {
            return self.filtered(value);
        }
        Ok(value)
    }

    pub(super) fn primary(&mut self) -> Result<Expr, Stop> {
        match self.next() {
            Some(Token::Name(name)) => Ok(match name.as_str() {
                "true" | "True" => Expr::Const(Const::Bool(true)),
                "false" | "False" => Expr::Const(Const::Bool(false)),
                "none" | "None" => Expr::Const(Const::None),
                "self" | "super" => return unsupported(&format!("the name '{name}'")),
                _ => {
                    let name_of = Arc::from(name.as_str());
                    for names in &mut self.names {
                        names.insert(name.clone());
                    }
                    Expr::Name(name_of)
                }
            }),
            Some(Token::Str(mut text)) => {
                while let Some(Token::Str(more)) = self.peek() {
                    text.push_str(more);
                    self.next();
                }
                Ok(Expr::Const(Const::Str(Arc::from(text))))
            }
            Some(Token::Int(number)) => Ok(Expr::Const(Const::Int(number))),
            Some(Token::Float(number)) => Ok(Expr::Const(Const::Float(number))),
            Some(Token::Op("(")) => {
                let value = self.deeper(|parser| parser.tuple_or(true, &[], true))?;
                self.expect_op(")")?;
                Ok(value)
            }
            Some(Token::Op("[")) => {
                let items = self.items("]", Parser::expression)?;
                Ok(Expr::List(items))
            }
            Some(Token::Op("{")) => {
                let entry = |parser: &mut Parser| {
                    let key = parser.expression()?;
                    parser.expect_op(":")?;
                    Ok((key, parser.expression()?))
                };
                Ok(Expr::Dict(self.items("}", entry)?))
            }
            _ => {
                self.back();
                failed(format!("unexpected {}", self.shown()))
            }
        }
    }

    /// Items with commas between, up to `end`.
    fn items<T>(
        &mut self,
        end: &str,
        item: impl Fn(&mut Parser) -> Result<T, Stop>,
    ) -> Result<Vec<T>, Stop> {
        let mut items = Vec::new();
        while !self.is_op(end) {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            if self.is_op(end) {
                break;
            }
            items.push(item(self)?);
        }
        self.expect_op(end)?;
        Ok(items)
    }

    pub(super) fn postfix(&mut self, mut value: Expr) -> Result<Expr, Stop> {
        for _ in 0..DEPTH_MAX {
            if self.skip_op(".") {
                value = match self.next() {
                    Some(Token::Name(name)) => Expr::Attr(Box::new(value), Arc::from(name)),
                    Some(Token::Int(number)) => {
                        let at = Expr::Const(Const::Int(number));
                        Expr::Item(Box::new(value), Box::new(at))
                    }
                    _ => return failed("expected a name or a number after '.'"),
                };
            } else if self.skip_op("[") {
                value = self.subscript(value)?;
            } else if self.is_op("(") {
                let arguments = self.arguments()?;
                if let Expr::Attr(_, method) = &value
                    && SEARCHES.contains(&&**method)
                    && let Some(first) = arguments.positional.first()
                {
                    self.note(first);
                }
                value = Expr::Call(Box::new(value), arguments);
            } else {
                return Ok(value);
            }
        }
        failed(format!("more than {DEPTH_MAX} accesses in a row"))
    }

    fn subscript(&mut self, value: Expr) -> Result<Expr, Stop> {
        let mut items: Vec<Expr> = Vec::new();
        let mut parts = [None, None, None];
        let mut part = 0;
        loop {
            if self.is_op("]") {
                break;
            }
            if self.skip_op(":") {
                part += 1;
                if part > 2 || items.len() > 1 {
                    return failed("a slice with too many parts");
                }
                if part == 1 {
                    parts[0] = items.pop().map(Box::new);
                }
                continue;
            }
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            let item = self.expression()?;
            if part > 0 {
                parts[part] = Some(Box::new(item));
                if !self.is_op(":") && !self.is_op("]") {
                    return failed(format!("unexpected {} in a slice", self.shown()));
                }
            } else {
                items.push(item);
            }
        }
        self.expect_op("]")?;
        if part > 0 {
            return Ok(Expr::Slice(Box::new(value), parts));
        }
        let Some(last) = items.pop() else {
            return failed("an empty subscript");
        };
        let at = if items.is_empty() {
            last
        } else {
            items.push(last);
            Expr::Tuple(items)
        };
        Ok(Expr::Item(Box::new(value), Box::new(at)))
    }

    /// Remembers a constant that is looked for in other texts.
    pub(super) fn note(&mut self, expr: &Expr) {
        match expr {
            Expr::Const(Const::Str(text)) => {
                self.needles.insert(text.to_string());
            }
            Expr::Tuple(items) => items.iter().for_each(|item| self.note(item)),
            _ => {}
        }
    }
}

fn one_or(mut items: Vec<Expr>, several: fn(Vec<Expr>) -> Expr) -> Expr {
    match items.pop() {
        Some(only) if items.is_empty() => only,
        Some(last) => {
            items.push(last);
            several(items)
        }
        None => several(items),
    }
}

//! The cursor over tokens that both halves of the parser share: `expressions` and `statements`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{Stop, failed};
use super::lexer::Token;

/// Nesting of expressions and of statements: far above what people write, far below the stack.
pub(super) const DEPTH_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    /// Loops around the statement that is parsed, for `break` and `continue`.
    pub(super) loops: usize,
    /// The names used in each macro around it.
    pub(super) names: Vec<BTreeSet<String>>,
    /// Texts that the template looks for in others.
    pub(super) needles: BTreeSet<String>,
}

impl Parser {
    pub(super) fn new(tokens: Vec<(Token, usize)>) -> Parser {
        Parser {
            tokens,
            at: 0,
            depth: 0,
            loops: 0,
            names: Vec::new(),
            needles: BTreeSet::new(),
        }
    }

    pub(super) fn line(&self) -> usize {
        let at = self.at.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(at).map_or(1, |(_, line)| *line)
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    pub(super) fn peek_second(&self) -> Option<&Token> {
        self.tokens.get(self.at + 1).map(|(token, _)| token)
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).map(|(token, _)| token.clone());
        self.at += 1;
        token
    }

    pub(super) fn back(&mut self) {
        self.at = self.at.saturating_sub(1);
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(found)) if *found == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if found == name)
    }

    pub(super) fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Result<(), Stop> {
        if self.skip_op(op) {
            return Ok(());
        }
        failed(format!("expected '{op}', got {}", self.shown()))
    }

    pub(super) fn expect_name(&mut self) -> Result<Arc<str>, Stop> {
        match self.next() {
            Some(Token::Name(name)) => Ok(Arc::from(name)),
            _ => {
                self.at -= 1;
                failed(format!("expected a name, got {}", self.shown()))
            }
        }
    }

    pub(super) fn expect(&mut self, token: &Token) -> Result<(), Stop> {
        if self.peek() == Some(token) {
            self.at += 1;
            return Ok(());
        }
        failed(format!("unexpected {}", self.shown()))
    }

    /// The token in question, for messages.
    pub(super) fn shown(&self) -> String {
        match self.peek() {
            None => "the end of the template".to_owned(),
            Some(Token::Data(_)) => "text".to_owned(),
            Some(Token::VariableBegin) => "'{{'".to_owned(),
            Some(Token::VariableEnd) => "'}}'".to_owned(),
            Some(Token::BlockBegin) => "'{%'".to_owned(),
            Some(Token::BlockEnd) => "'%}'".to_owned(),
            Some(Token::Name(name)) => format!("'{name}'"),
            Some(Token::Str(text)) => format!("{text:?}"),
            Some(Token::Int(number)) => number.to_string(),
            Some(Token::Float(number)) => number.to_string(),
            Some(Token::Op(op)) => format!("'{op}'"),
        }
    }

    pub(super) fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Parser) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        if self.depth >= DEPTH_MAX {
            return failed(format!("nested deeper than {DEPTH_MAX}"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }
}

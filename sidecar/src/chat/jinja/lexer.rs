//! Cuts a template into data and the tokens of its tags, with Jinja2's rules for white space:
//! `trim_blocks` and `lstrip_blocks` on, as transformers sets it up.

use super::error::{Stop, failed};
use super::literal;
use super::text::is_space;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Data(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    Op(&'static str),
}

/// Longest first.
const OPERATORS: [&str; 25] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}",
    ">", "<", "=", ".", ":", "|", ",",
];

pub(super) struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    /// The last thing read ended a line.
    line_starts: bool,
    tokens: Vec<(Token, usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Block,
    Variable,
    Comment,
}

/// The tokens of a template, each with its line.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, Stop> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer {
        source: &source,
        at: 0,
        line: 1,
        line_starts: true,
        tokens: Vec::new(),
    };
    while lexer.at < lexer.source.len() {
        lexer.root().map_err(|stop| stop.at(lexer.line))?;
    }
    Ok(lexer.tokens)
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.source[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count();
        if bytes > 0 {
            self.line_starts = passed.ends_with('\n');
        }
        self.at += bytes;
    }

    fn push(&mut self, token: Token) {
        self.tokens.push((token, self.line));
    }

    /// Data up to the next tag, and that tag.
    fn root(&mut self) -> Result<(), Stop> {
        let rest = self.rest();
        let begin = |(at, _): (usize, &str)| match rest.as_bytes().get(at + 1) {
            Some(b'%') => Some((at, Tag::Block)),
            Some(b'{') => Some((at, Tag::Variable)),
            Some(b'#') => Some((at, Tag::Comment)),
            _ => None,
        };
        let Some((at, tag)) = rest.match_indices('{').find_map(begin) else {
            let data = rest.to_owned();
            return self.data(data, self.rest().len());
        };
        let sign = match rest.as_bytes().get(at + 2) {
            Some(b'-') => "-",
            Some(b'+') => "+",
            _ => "",
        };
        let data = self.stripped(&rest[..at], sign, tag != Tag::Variable);
        self.data(data, at)?;
        let start = 2 + sign.len();
        match tag {
            Tag::Comment => self.comment(start),
            Tag::Block if raw_begin(&self.rest()[start..]).is_some() => {
                let length = raw_begin(&self.rest()[start..]).unwrap_or(0);
                self.advance(start + length);
                self.raw()
            }
            Tag::Block | Tag::Variable => {
                let (begin, end) = match tag {
                    Tag::Block => (Token::BlockBegin, Token::BlockEnd),
                    _ => (Token::VariableBegin, Token::VariableEnd),
                };
                self.push(begin);
                self.advance(start);
                self.inside(tag, end)
            }
        }
    }

    fn data(&mut self, data: String, bytes: usize) -> Result<(), Stop> {
        if !data.is_empty() {
            self.push(Token::Data(data));
        }
        self.advance(bytes);
        Ok(())
    }

    /// Data before a tag, without the blanks that the tag takes along.
    fn stripped(&self, data: &str, sign: &str, strips_line: bool) -> String {
        if sign == "-" {
            return data.trim_end_matches(is_space).to_owned();
        }
        if sign != "+" && strips_line {
            let start = data.rfind('\n').map_or(0, |at| at + 1);
            let begins_line = start > 0 || self.line_starts;
            if begins_line && data[start..].chars().all(is_space) {
                return data[..start].to_owned();
            }
        }
        data.to_owned()
    }

    fn comment(&mut self, start: usize) -> Result<(), Stop> {
        let Some(end) = self.rest()[start..].find("#}") else {
            return failed("missing end of comment tag");
        };
        let body = &self.rest()[start..start + end];
        let (strips, keeps) = (body.ends_with('-'), body.ends_with('+'));
        self.advance(start + end + 2);
        self.after_block(strips, keeps);
        Ok(())
    }

    /// The blanks behind a block or comment.
    fn after_block(&mut self, strips: bool, keeps: bool) {
        if strips {
            self.skip_blanks();
        } else if !keeps && self.rest().starts_with('\n') {
            self.advance(1);
        }
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        let blanks = rest.len() - rest.trim_start_matches(is_space).len();
        self.advance(blanks);
    }

    fn raw(&mut self) -> Result<(), Stop> {
        let mut from = 0;
        if self.rest().is_empty() {
            return Ok(());
        }
        loop {
            let rest = self.rest();
            let Some(at) = rest[from..].find("{%").map(|at| from + at) else {
                return failed("missing end of raw directive");
            };
            let tag = &rest[at + 2..];
            let sign = if tag.starts_with('-') {
                "-"
            } else if tag.starts_with('+') {
                "+"
            } else {
                ""
            };
            let name = tag[sign.len()..].trim_start_matches(is_space);
            if let Some(end) = name.strip_prefix("endraw") {
                let end = end.trim_start_matches(is_space);
                let (strips, keeps) = (end.starts_with("-%}"), end.starts_with("+%}"));
                if strips || keeps || end.starts_with("%}") {
                    let data = self.stripped(&rest[..at], sign, true);
                    let close = if strips || keeps { 3 } else { 2 };
                    let length = rest.len() - end.len() + close;
                    self.data(data, length)?;
                    self.after_block(strips, keeps);
                    return Ok(());
                }
            }
            from = at + 2;
        }
    }

    /// `a.1.2` are two places, no float.
    fn after_dot(&self) -> bool {
        self.source[..self.at].ends_with('.')
    }

    /// The tokens of a tag, up to its end.
    fn inside(&mut self, tag: Tag, end: Token) -> Result<(), Stop> {
        let close = if tag == Tag::Block { "%}" } else { "}}" };
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.skip_blanks();
            let rest = self.rest();
            if open.is_empty() {
                let strips = rest.starts_with('-') && rest[1..].starts_with(close);
                let keeps = tag == Tag::Block && rest.starts_with("+%}");
                if strips || keeps || rest.starts_with(close) {
                    self.push(end);
                    self.advance(if strips || keeps { 3 } else { 2 });
                    if tag == Tag::Block {
                        self.after_block(strips, keeps);
                    } else if strips {
                        self.skip_blanks();
                    }
                    return Ok(());
                }
            }
            let Some(c) = rest.chars().next() else {
                return failed("the template ends inside a tag");
            };
            if c == '"' || c == '\'' {
                let (text, length) = literal::string(rest)?;
                self.push(Token::Str(text));
                self.advance(length);
            } else if let Some((number, length)) = literal::number(rest, self.after_dot())? {
                self.push(number);
                self.advance(length);
            } else if c.is_alphanumeric() || c == '_' {
                let name: String = rest
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let length = name.len();
                self.push(Token::Name(name));
                self.advance(length);
            } else if let Some(op) = OPERATORS.iter().find(|op| rest.starts_with(**op)) {
                match op.as_bytes() {
                    [b'('] => open.push(b')'),
                    [b'['] => open.push(b']'),
                    [b'{'] => open.push(b'}'),
                    [close @ (b')' | b']' | b'}')] if open.pop() != Some(*close) => {
                        return failed(format!("unexpected '{op}'"));
                    }
                    _ => {}
                }
                self.push(Token::Op(op));
                self.advance(op.len());
            } else {
                return failed(format!("unexpected char {c:?}"));
            }
        }
    }
}

/// The length of a `raw` tag's name and end, when it is one.
fn raw_begin(tag: &str) -> Option<usize> {
    let name = tag.trim_start_matches(is_space).strip_prefix("raw")?;
    let end = name.trim_start_matches(is_space);
    let behind = match end.strip_prefix("-%}") {
        Some(behind) => behind.trim_start_matches(is_space),
        None => end.strip_prefix("%}")?,
    };
    Some(tag.len() - behind.len())
}

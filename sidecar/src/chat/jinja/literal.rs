//! Numbers and strings as templates write them.

use super::Token;
use super::error::{Stop, failed, unsupported};

/// A string at the start of `source`, and its length in the source.
pub(super) fn string(source: &str) -> Result<(String, usize), Stop> {
    let quote = source.chars().next().unwrap_or('"');
    let mut chars = source.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return Ok((unescaped(&source[1..at])?, at + 1));
        }
    }
    failed("a string does not end")
}

/// Python's `encode("ascii", "backslashreplace").decode("unicode-escape")`, as Jinja2 reads it.
fn unescaped(text: &str) -> Result<String, Stop> {
    if !text.contains('\\') {
        return Ok(text.to_owned());
    }
    let mut ascii = String::new();
    for c in text.chars() {
        match u32::from(c) {
            0..=0x7f => ascii.push(c),
            code @ 0x80..=0xff => ascii.push_str(&format!("\\x{code:02x}")),
            code @ 0x100..=0xffff => ascii.push_str(&format!("\\u{code:04x}")),
            code => ascii.push_str(&format!("\\U{code:08x}")),
        }
    }
    let mut out = String::new();
    let mut rest = ascii.as_str();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let Some(c) = rest[at + 1..].chars().next() else {
            return failed("a string ends with a backslash");
        };
        rest = &rest[at + 2..];
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            '0'..='7' => {
                let more = rest
                    .bytes()
                    .take(2)
                    .take_while(|b| (b'0'..=b'7').contains(b));
                let more = more.count();
                let digits = format!("{c}{}", &rest[..more]);
                out.push(character(&digits, 8)?);
                rest = &rest[more..];
            }
            'x' | 'u' | 'U' => {
                let length = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let digits = rest
                    .get(..length)
                    .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let Some(digits) = digits else {
                    return failed(format!("a string with a broken \\{c} escape"));
                };
                out.push(character(digits, 16)?);
                rest = &rest[length..];
            }
            'N' => return unsupported("the escape \\N{...} of a string"),
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn character(digits: &str, radix: u32) -> Result<char, Stop> {
    let code = u32::from_str_radix(digits, radix).ok();
    match code.and_then(char::from_u32) {
        Some(c) => Ok(c),
        None => failed(format!(
            "a string with the code {digits}, which is no character"
        )),
    }
}

/// A number at the start of `source`, and its length. `whole_only`: a float is not read.
pub(super) fn number(source: &str, whole_only: bool) -> Result<Option<(Token, usize)>, Stop> {
    if !source.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(None);
    }
    let bytes = source.as_bytes();
    for (prefix, radix) in [("0b", 2), ("0o", 8), ("0x", 16)] {
        let head = source.get(..2).map(str::to_ascii_lowercase);
        if head.as_deref() == Some(prefix) {
            let end = digits(bytes, 2, true, |b| char::from(b).is_digit(radix));
            if end > 2 {
                let text = source[2..end].replace('_', "");
                return whole(&text, radix).map(|number| Some((number, end)));
            }
        }
    }
    let decimal = |from: usize| digits(bytes, from, false, |b| b.is_ascii_digit());
    let end = decimal(0);
    let mut float_end = end;
    if bytes.get(end) == Some(&b'.') && decimal(end + 1) > end + 1 {
        float_end = decimal(end + 1);
    }
    if matches!(bytes.get(float_end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(float_end + 1), Some(b'+' | b'-')));
        let start = float_end + 1 + sign;
        if decimal(start) > start {
            float_end = decimal(start);
        }
    }
    if float_end > end && !whole_only {
        let text = source[..float_end].replace('_', "");
        return match text.parse() {
            Ok(number) => Ok(Some((Token::Float(number), float_end))),
            Err(_) => failed(format!("{text} is no number")),
        };
    }
    // A zero is followed by zeros only: what comes then is a token of its own.
    let end = if bytes[0] == b'0' {
        digits(bytes, 0, false, |b| b == b'0')
    } else {
        end
    };
    let text = source[..end].replace('_', "");
    whole(&text, 10).map(|number| Some((number, end)))
}

/// The end of a run of digits from `from`; single underscores may stand between them.
fn digits(
    bytes: &[u8],
    from: usize,
    underscore_first: bool,
    is_digit: impl Fn(u8) -> bool,
) -> usize {
    let mut at = from;
    let mut may_skip = underscore_first;
    loop {
        match bytes.get(at) {
            Some(b) if is_digit(*b) => at += 1,
            Some(b'_') if may_skip && bytes.get(at + 1).is_some_and(|b| is_digit(*b)) => at += 2,
            _ => return at,
        }
        may_skip = true;
    }
}

fn whole(digits: &str, radix: u32) -> Result<Token, Stop> {
    match i128::from_str_radix(digits, radix) {
        Ok(number) => Ok(Token::Int(number)),
        Err(_) => failed(format!("the number {digits} is too large")),
    }
}

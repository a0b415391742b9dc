//! What Python's methods do to texts.

use super::error::{Stop, failed};
use super::text::is_space;

/// Python's `capitalize`: the first letter as in a title, the others small.
pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => titled(first) + &lower_after(first, chars.as_str()),
        None => String::new(),
    }
}

/// The small letters of `rest`, which stands behind a letter: a final sigma looks back.
fn lower_after(before: char, rest: &str) -> String {
    let whole: String = std::iter::once(before).chain(rest.chars()).collect();
    let lower = whole.to_lowercase();
    lower
        .strip_prefix(&before.to_lowercase().to_string())
        .map_or_else(|| rest.to_lowercase(), str::to_owned)
}

fn titled(c: char) -> String {
    match c {
        // The digraphs that have a form for titles.
        'Ǆ' | 'ǆ' => "ǅ".to_owned(),
        'Ǉ' | 'ǉ' => "ǈ".to_owned(),
        'Ǌ' | 'ǌ' => "ǋ".to_owned(),
        'Ǳ' | 'ǳ' => "ǲ".to_owned(),
        'ß' => "Ss".to_owned(),
        'ﬁ' => "Fi".to_owned(),
        'ﬂ' => "Fl".to_owned(),
        'ﬀ' => "Ff".to_owned(),
        other => other.to_uppercase().to_string(),
    }
}

/// Python's `str.title`: each run of letters begins large.
pub(super) fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&titled(c));
        }
        inside = is_cased(c);
    }
    out
}

pub(super) fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || "ǅǈǋǲ".contains(c)
}

pub(super) fn swapped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else if c.is_lowercase() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(is_cased) && !text.chars().any(|c| c.is_uppercase() || "ǅǈǋǲ".contains(c))
}

pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(is_cased) && !text.chars().any(|c| c.is_lowercase() || "ǅǈǋǲ".contains(c))
}

pub(super) fn is_title(text: &str) -> bool {
    let (mut before, mut any) = (false, false);
    for c in text.chars() {
        let fits = if c.is_uppercase() || "ǅǈǋǲ".contains(c) {
            !before
        } else if c.is_lowercase() {
            before
        } else {
            before = false;
            continue;
        };
        if !fits {
            return false;
        }
        (before, any) = (true, true);
    }
    any
}

/// Pieces between white space, at most `most` cuts, from the left or the right.
pub(super) fn split_blanks(text: &str, most: Option<usize>, from_right: bool) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() {
        if most.is_some_and(|most| pieces.len() >= most) {
            // The last piece keeps the blanks at the far end.
            let kept = match from_right {
                false => &text[rest.as_ptr() as usize - text.as_ptr() as usize..],
                true => {
                    let start = rest.as_ptr() as usize - text.as_ptr() as usize;
                    &text[..start + rest.len()]
                }
            };
            pieces.push(kept.to_owned());
            break;
        }
        let cut = if from_right {
            rest.rfind(is_space).map(|at| {
                let width = rest[at..].chars().next().map_or(0, char::len_utf8);
                (&rest[at + width..], rest[..at].trim_end_matches(is_space))
            })
        } else {
            rest.find(is_space)
                .map(|at| (&rest[..at], rest[at..].trim_start_matches(is_space)))
        };
        let Some((piece, others)) = cut else {
            pieces.push(rest.to_owned());
            break;
        };
        pieces.push(piece.to_owned());
        rest = others;
    }
    if from_right {
        pieces.reverse();
    }
    pieces
}

pub(super) fn split(
    text: &str,
    by: &str,
    most: Option<usize>,
    from_right: bool,
) -> Result<Vec<String>, Stop> {
    if by.is_empty() {
        return failed("empty separator");
    }
    let owned = |pieces: Vec<&str>| pieces.into_iter().map(str::to_owned).collect();
    Ok(match (most, from_right) {
        (None, false) => owned(text.split(by).collect()),
        (None, true) => {
            let mut pieces: Vec<&str> = text.rsplit(by).collect();
            pieces.reverse();
            owned(pieces)
        }
        (Some(most), false) => owned(text.splitn(most.saturating_add(1), by).collect()),
        (Some(most), true) => {
            let mut pieces: Vec<&str> = text.rsplitn(most.saturating_add(1), by).collect();
            pieces.reverse();
            owned(pieces)
        }
    })
}

/// Python's line ends.
pub(super) fn lines(text: &str, keep: bool) -> Vec<String> {
    const ENDS: [char; 10] = [
        '\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}',
        '\u{2029}',
    ];
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(ENDS) else {
            lines.push(rest.to_owned());
            break;
        };
        let mut end = at + rest[at..].chars().next().map_or(0, char::len_utf8);
        if rest[at..].starts_with("\r\n") {
            end = at + 2;
        }
        lines.push(rest[..if keep { end } else { at }].to_owned());
        rest = &rest[end..];
    }
    lines
}

/// `find` and its kin: the place of `part`, in characters, within the bounds of a slice.
pub(super) fn find(
    text: &str,
    part: &str,
    (start, end): (Option<i128>, Option<i128>),
    last: bool,
) -> Option<usize> {
    let (from, to) = bounds(text, start, end)?;
    let within = &text[from..to];
    let at = if last {
        within.rfind(part)
    } else {
        within.find(part)
    };
    at.map(|at| text[..from + at].chars().count())
}

/// Byte places of a slice's ends. None where it begins behind its end.
pub(super) fn bounds(text: &str, start: Option<i128>, end: Option<i128>) -> Option<(usize, usize)> {
    let length = i128::try_from(text.chars().count()).ok()?;
    let place = |number: i128| {
        if number < 0 {
            (number + length).max(0)
        } else {
            number
        }
    };
    let (start, end) = (
        start.map_or(0, place),
        end.map_or(length, place).min(length),
    );
    if start > end {
        return None;
    }
    let byte = |at: i128| {
        let at = usize::try_from(at).unwrap_or(0);
        text.char_indices()
            .nth(at)
            .map_or(text.len(), |(byte, _)| byte)
    };
    Some((byte(start), byte(end)))
}

/// The text in the middle of `width` characters. Python and its older self differ in where the
/// odd blank goes.
pub(super) fn centred(text: &str, width: usize, fill: char) -> String {
    let length = text.chars().count();
    let Some(blanks) = width.checked_sub(length) else {
        return text.to_owned();
    };
    let left = blanks / 2 + (blanks & width & 1);
    let pad = |count: usize| std::iter::repeat_n(fill, count);
    pad(left)
        .chain(text.chars())
        .chain(pad(blanks - left))
        .collect()
}

pub(super) fn padded(text: &str, width: usize, fill: char, left: bool) -> String {
    let blanks = width.saturating_sub(text.chars().count());
    let pad: String = std::iter::repeat_n(fill, blanks).collect();
    if left {
        pad + text
    } else {
        text.to_owned() + &pad
    }
}

pub(super) fn replaced(text: &str, old: &str, new: &str, count: Option<usize>) -> String {
    match count {
        None => text.replace(old, new),
        Some(count) => text.replacen(old, new, count),
    }
}

pub(super) fn expanded_tabs(text: &str, size: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' => {
                let blanks = if size == 0 { 0 } else { size - column % size };
                out.extend(std::iter::repeat_n(' ', blanks));
                column += blanks;
            }
            '\n' | '\r' => {
                out.push(c);
                column = 0;
            }
            other => {
                out.push(other);
                column += 1;
            }
        }
    }
    out
}

pub(super) fn zero_filled(text: &str, width: usize) -> String {
    let zeros = width.saturating_sub(text.chars().count());
    let (sign, digits) = match text.chars().next() {
        Some(sign @ ('+' | '-')) => (sign.to_string(), &text[1..]),
        _ => (String::new(), text),
    };
    sign + &"0".repeat(zeros) + digits
}

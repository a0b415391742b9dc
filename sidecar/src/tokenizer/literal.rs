//! Encoding a text in which some ranges are literal: the text of a special token there is text.
//!
//! The same steps as the tokenizer's own encoding (cut out added tokens, normalise, cut into
//! words, merge), on the same string, so that everything else gets the same ids; only the added
//! tokens that touch a literal range are not cut out.

use std::collections::HashMap;
use std::ops::Range;

use tokenizers::tokenizer::normalizer::Range as StringRange;
use tokenizers::{
    Model, Normalizer, OffsetType, PreTokenizedString, PreTokenizer, Token, Tokenizer,
};

/// The added tokens of a tokenizer, by first byte, the longest first.
#[derive(Debug, Default)]
pub(super) struct AddedTokens {
    by_first_byte: HashMap<u8, Vec<Added>>,
}

#[derive(Debug)]
struct Added {
    id: u32,
    content: String,
    special: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

impl AddedTokens {
    pub(super) fn of(tokenizer: &Tokenizer) -> AddedTokens {
        let mut by_first_byte: HashMap<u8, Vec<Added>> = HashMap::new();
        for (id, token) in tokenizer.get_added_vocabulary().get_added_tokens_decoder() {
            let Some(first) = token.content.bytes().next() else {
                continue;
            };
            by_first_byte.entry(first).or_default().push(Added {
                id: *id,
                content: token.content.clone(),
                special: token.special,
                single_word: token.single_word,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
            });
        }
        for tokens in by_first_byte.values_mut() {
            tokens.sort_by(|a, b| {
                b.content
                    .len()
                    .cmp(&a.content.len())
                    .then_with(|| a.content.cmp(&b.content))
            });
        }
        AddedTokens { by_first_byte }
    }

    /// The special token whose text begins at `at`, the longest of them.
    pub(super) fn special_at<'a>(&'a self, text: &str, at: usize) -> Option<&'a str> {
        self.candidates(text, at)
            .find(|token| token.special)
            .map(|token| token.content.as_str())
    }

    fn candidates<'a>(&'a self, text: &str, at: usize) -> impl Iterator<Item = &'a Added> {
        let rest = &text.as_bytes()[at..];
        let tokens = rest.first().and_then(|first| self.by_first_byte.get(first));
        let tokens = tokens.map_or(&[][..], Vec::as_slice);
        tokens
            .iter()
            .filter(move |token| rest.starts_with(token.content.as_bytes()))
    }

    /// The added tokens to cut out: their ranges, with the blanks they take along, and ids.
    fn matches(&self, text: &str, literal: &[Range<usize>]) -> Vec<(Range<usize>, u32)> {
        let mut found: Vec<(Range<usize>, u32)> = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let token = self.candidates(text, at).find(|token| {
                let range = at..at + token.content.len();
                // The ranges ascend: the first that ends behind `at` is the only one in question.
                let next = literal.partition_point(|l| l.end <= range.start);
                let touches = literal.get(next).is_some_and(|l| l.start < range.end);
                let is_literal = token.special && touches;
                let cut = token.single_word && inside_word(text, &range);
                !(is_literal || cut)
            });
            let Some(token) = token else {
                at += 1;
                continue;
            };
            let mut range = at..at + token.content.len();
            if token.lstrip {
                let before = text[..range.start].trim_end().len();
                range.start = before.max(found.last().map_or(0, |(last, _)| last.end));
            }
            if token.rstrip {
                let after = &text[range.end..];
                range.end += after.len() - after.trim_start().len();
            }
            at = range.end;
            found.push((range, token.id));
        }
        found
    }
}

fn inside_word(text: &str, range: &Range<usize>) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text[..range.start].ends_with(word) || text[range.end..].starts_with(word)
}

/// Encodes `text` without the post-processor's tokens. `literal`: ascending ranges.
pub(super) fn encode(
    tokenizer: &Tokenizer,
    added: &AddedTokens,
    text: &str,
    literal: &[Range<usize>],
) -> tokenizers::Result<Vec<u32>> {
    let matches = added.matches(text, literal);
    let mut string = PreTokenizedString::from(text);
    string.split(|_, whole| {
        let mut parts = Vec::new();
        let mut push = |range: Range<usize>, id: Option<u32>| {
            if let Some(part) = whole.slice(StringRange::Original(range)) {
                let token = id.map(|id| {
                    let value = part.get().to_owned();
                    let end = value.len();
                    vec![Token::new(id, value, (0, end))]
                });
                parts.push((part, token));
            }
        };
        let mut end = 0;
        for (range, id) in &matches {
            push(end..range.start, None);
            push(range.clone(), Some(*id));
            end = range.end;
        }
        push(end..text.len(), None);
        Ok(parts)
    })?;
    if let Some(normalizer) = tokenizer.get_normalizer() {
        string.normalize(|part| normalizer.normalize(part))?;
    }
    if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut string)?;
    }
    let model = tokenizer.get_model();
    string.tokenize(|part| model.tokenize(part.get()))?;
    Ok(string
        .into_encoding(None, 0, OffsetType::None)?
        .get_ids()
        .to_vec())
}

//! Keeps the text of special tokens in users' messages from becoming special tokens.
//!
//! Before rendering, each such text is replaced by one private-use character that appears nowhere
//! else; templates may trim, split and compare around it as around any letter. After rendering
//! the characters are put back and their places reported, so that the tokenizer leaves them
//! alone. Messages without such a text (nearly all) are rendered as they are.
//!
//! One exception: a special token that the template itself looks for (`</think>`, to take an
//! earlier answer's reasoning out) stays what it is in what the assistant said; in what users
//! wrote it is text like any other.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Chat;
use crate::tokenizer::{Rendered, Tokenizer};

/// Unicode's private-use planes: the first has room for 6,400 different special tokens.
const PRIVATE_USE: [std::ops::RangeInclusive<char>; 2] =
    ['\u{e000}'..='\u{f8ff}', '\u{f0000}'..='\u{ffffd}'];

pub(super) struct Placeholders<'a> {
    tokenizer: &'a Tokenizer,
    /// Characters that stand for nothing yet, the next one last.
    free: Vec<char>,
    by_text: HashMap<String, char>,
    by_character: HashMap<char, String>,
}

impl<'a> Placeholders<'a> {
    /// `fixed` and `chat`: every text the template can write, whose characters are taken.
    pub(super) fn new<'t>(
        tokenizer: &'a Tokenizer,
        fixed: impl Iterator<Item = &'t str>,
        chat: &Chat,
    ) -> Placeholders<'a> {
        let mut placeholders = Placeholders {
            tokenizer,
            free: Vec::new(),
            by_text: HashMap::new(),
            by_character: HashMap::new(),
        };
        let mut any = false;
        chat.visit(&mut |text| any = any || first_special(tokenizer, text, 0).is_some());
        if any {
            let mut taken: HashSet<char> = fixed.flat_map(str::chars).collect();
            chat.visit(&mut |text| taken.extend(text.chars()));
            let free = PRIVATE_USE
                .into_iter()
                .flatten()
                .filter(|c| !taken.contains(c));
            placeholders.free = free.collect();
            placeholders.free.reverse();
        }
        placeholders
    }

    /// The text with a placeholder for each special token in it that is not among `kept`.
    pub(super) fn hide(&mut self, text: &str, kept: &BTreeSet<String>) -> String {
        let mut hidden = String::with_capacity(text.len());
        let mut end = 0;
        while let Some((start, special)) = first_special(self.tokenizer, text, end) {
            hidden.push_str(&text[end..start]);
            end = start + special.len();
            if kept.contains(special) {
                hidden.push_str(special);
            } else {
                let special = special.to_owned();
                hidden.push(self.placeholder(special));
            }
        }
        hidden.push_str(&text[end..]);
        hidden
    }

    /// The placeholders in use and what they stand for.
    pub(super) fn hidden(&self) -> HashMap<char, String> {
        self.by_character.clone()
    }

    /// Puts the texts back into a rendered prompt.
    pub(super) fn restore(&self, rendered: &str) -> Rendered {
        let mut text = String::with_capacity(rendered.len());
        let mut literal = Vec::new();
        for c in rendered.chars() {
            match self.by_character.get(&c) {
                None => text.push(c),
                Some(special) => {
                    let start = text.len();
                    text.push_str(special);
                    literal.push(start..text.len());
                }
            }
        }
        Rendered { text, literal }
    }

    fn placeholder(&mut self, special: String) -> char {
        if let Some(c) = self.by_text.get(&special) {
            return *c;
        }
        // Two planes hold 70,000 characters, a message of some megabytes could use them all. Then
        // the text is lost, which is still not a special token.
        let Some(c) = self.free.pop() else {
            return char::REPLACEMENT_CHARACTER;
        };
        self.by_character.insert(c, special.clone());
        self.by_text.insert(special, c);
        c
    }
}

/// The special tokens in a text.
pub(super) fn specials(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut end = 0;
    while let Some((start, special)) = first_special(tokenizer, text, end) {
        end = start + special.len();
        found.push(special.to_owned());
    }
    found
}

fn first_special<'a>(
    tokenizer: &'a Tokenizer,
    text: &str,
    from: usize,
) -> Option<(usize, &'a str)> {
    let at = |at: usize| tokenizer.special_at(text, at).map(|special| (at, special));
    (from..text.len()).find_map(at)
}

//! Special tokens: the names that chat templates use for them, and those that files beside a
//! `tokenizer.json` declare.

use std::collections::BTreeMap;

/// Texts of special tokens under the names that chat templates use: `bos_token`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens(BTreeMap<String, String>);

impl SpecialTokens {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Name and text of each, ascending by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.0.iter();
        pairs.map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

impl<N: Into<String>, T: Into<String>> FromIterator<(N, T)> for SpecialTokens {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(pairs: I) -> SpecialTokens {
        let pairs = pairs.into_iter();
        SpecialTokens(pairs.map(|(n, t)| (n.into(), t.into())).collect())
    }
}

/// A token that another file than `tokenizer.json` declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredToken {
    pub content: String,
    /// None: whatever the tokenizer has for it, or its next free id.
    pub id: Option<u32>,
    pub special: bool,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    /// Named `pad_token`, and nothing else.
    pub padding: bool,
    /// The file that declares it, for messages.
    pub file: String,
}

//! Characters that stand for the texts of special tokens while a template runs, see
//! `chat::protect`: functions that escape what is not a letter must know them.
//!
//! Kept beside the thread and not in the values: every text may hold some.

use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    static HIDDEN: RefCell<HashMap<char, String>> = RefCell::default();
}

/// Runs `work` with these characters known.
pub(super) fn with<T>(characters: HashMap<char, String>, work: impl FnOnce() -> T) -> T {
    HIDDEN.with_borrow_mut(|hidden| *hidden = characters);
    let done = work();
    HIDDEN.with_borrow_mut(HashMap::clear);
    done
}

/// The text that `c` stands for.
pub(super) fn stands_for(c: char) -> Option<String> {
    HIDDEN.with_borrow(|hidden| hidden.get(&c).cloned())
}

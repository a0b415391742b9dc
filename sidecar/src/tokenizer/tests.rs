//! The tokenizer against its own rules.

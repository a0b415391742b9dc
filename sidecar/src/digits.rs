//! Whole numbers that stand in text: digits and nothing else.
//!
//! Rust's own parser takes `+5` for 5, so one id would have two names where ids are keys.

/// The number that `text` writes in digits; None for a sign, a blank, or more than 32 bits hold.
pub fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_a_number() {
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("4294967295"), Some(u32::MAX));
        for text in ["", "+5", "-5", " 5", "5 ", "5.0", "5e0", "٥", "4294967296"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }
}

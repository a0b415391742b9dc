//! The tokenizer a GGUF's metadata describe.

/// `tokenizer.ggml.*`, checked for type and length.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTokenizer {
    /// The file, for messages.
    pub file: String,
}

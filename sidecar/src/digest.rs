//! The digest that identifies a model: sha256 over config and tensor headers.
//!
//! Hugging Face: the bytes of `config.json`, then of each safetensors header with its length, in
//! file-name order. GGUF: the header from the magic to the last tensor description. Tensor data
//! is not read: the digest says that shape, types, names and tokenizer (GGUF) are the same. With
//! adapters: the base's digest, then each one's, which cover their numbers, too.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

pub(crate) struct Digest(Sha256);

impl Digest {
    pub(crate) fn new() -> Digest {
        Digest(Sha256::new())
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// `sha256:<hex>`
    pub(crate) fn finish(self) -> String {
        let mut text = "sha256:".to_owned();
        for byte in self.0.finalize() {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

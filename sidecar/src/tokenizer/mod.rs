//! Text to token ids and back.
//!
//! Owns the tokenizer itself, incremental decoding, and the rule that a user's text never turns
//! into special tokens in a chat.

mod build;
mod folder;
mod gguf;
mod literal;
mod pieces;
mod pipeline;
mod sentencepiece;
mod special;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use gguf::GgufTokenizer;
pub(crate) use gguf::token_id;
pub use special::{DeclaredToken, SpecialTokens};
pub use stream::DecodeStream;

use crate::model_error::{ModelError, shorten};
use crate::weights::file::display_name;
use literal::AddedTokens;
use pieces::Pieces;

/// The largest published ones take about 35 MB.
pub(crate) const TOKENIZER_BYTES_MAX: u64 = 256 << 20;

/// Where the tokenizer comes from.
#[derive(Clone, Debug)]
pub enum TokenizerSource {
    /// `tokenizer.json` of a Hugging Face folder, and what its other files add to it.
    File {
        path: PathBuf,
        declared: Vec<DeclaredToken>,
    },
    /// The metadata of a GGUF file.
    Gguf(Arc<GgufTokenizer>),
}

/// A rendered prompt, for [`Tokenizer::encode_chat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// Byte ranges of `text` where a message holds the text of a special token: not special.
    pub literal: Vec<Range<usize>>,
}

/// A tokenizer; cheap to clone, shared by all requests.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tokenizer: tokenizers::Tokenizer,
    added: AddedTokens,
    pieces: Pieces,
    /// Put before a prompt that asks for special tokens (GGUF; a `tokenizer.json` says it itself).
    prefix: Option<u32>,
    /// Ids that are read as another one, which has the same text (GGUF).
    twins: HashMap<u32, u32>,
    vocab_size: u32,
}

/// A text that cannot be encoded (a pre-tokenizer that gave up on it).
#[derive(Debug, thiserror::Error)]
#[error("the text cannot be tokenized: {message}")]
pub struct EncodeError {
    pub message: String,
}

impl Tokenizer {
    /// Builds a tokenizer for a model with `vocab` rows of embedding. A smaller tokenizer is
    /// fine: models pad their vocabulary. Of a larger one, tokens that only pad are left out.
    ///
    /// # Errors
    /// [`ModelError::InvalidTokenizer`].
    pub fn load(source: &TokenizerSource, vocab: u32) -> Result<Tokenizer, ModelError> {
        let (tokenizer, file) = match source {
            TokenizerSource::File { path, declared } => {
                let file = display_name(path);
                let tokenizer = folder::read(path, declared, vocab)?;
                (
                    Tokenizer::new(tokenizer, &file, None, HashMap::new())?,
                    file,
                )
            }
            TokenizerSource::Gguf(metadata) => {
                (Tokenizer::from_gguf(metadata)?, metadata.file.clone())
            }
        };
        let size = tokenizer.vocab_size();
        if size > vocab {
            let highest = tokenizer
                .inner
                .tokenizer
                .id_to_token(size - 1)
                .unwrap_or_default();
            let message = format!(
                "the tokenizer has ids up to {} (`{}`), the model's vocabulary has {vocab}; they \
                 are not of the same model",
                size - 1,
                shorten(&highest)
            );
            return Err(ModelError::tokenizer(&file, message));
        }
        // Padding that was left out may still be what the post-processor adds.
        let added = tokenizer.encode("", true).unwrap_or_default();
        if let Some(id) = added.into_iter().find(|id| *id >= vocab) {
            let message = format!(
                "adds the token {id} to every prompt, the model's vocabulary has {vocab}; they are \
                 not of the same model"
            );
            return Err(ModelError::tokenizer(&file, message));
        }
        Ok(tokenizer)
    }

    /// Reads a `tokenizer.json` alone.
    ///
    /// # Errors
    /// [`ModelError::InvalidTokenizer`].
    pub fn from_file(path: &Path) -> Result<Tokenizer, ModelError> {
        let tokenizer = folder::parse(path, None)?;
        Tokenizer::new(tokenizer, &display_name(path), None, HashMap::new())
    }

    /// Builds the tokenizer that a GGUF's metadata describe.
    ///
    /// # Errors
    /// [`ModelError::InvalidTokenizer`].
    pub fn from_gguf(metadata: &GgufTokenizer) -> Result<Tokenizer, ModelError> {
        let (file, prefix) = (&metadata.file, metadata.prefix);
        Tokenizer::new(build::build(metadata)?, file, prefix, metadata.twins())
    }

    fn new(
        tokenizer: tokenizers::Tokenizer,
        file: &str,
        prefix: Option<u32>,
        twins: HashMap<u32, u32>,
    ) -> Result<Tokenizer, ModelError> {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default();
        let Some(pieces) = Pieces::of(&decoder) else {
            let message = format!(
                "decoder {} is not supported; supported: ByteLevel, Metaspace, ByteFallback",
                shorten(&decoder.to_string())
            );
            return Err(ModelError::tokenizer(file, message));
        };
        let highest = tokenizer.get_vocab(true).into_values().max();
        let Some(vocab_size) = highest.and_then(|id| id.checked_add(1)) else {
            let message = match highest {
                None => "has no tokens".to_owned(),
                Some(id) => format!("has the token id {id}, which is no row of any model"),
            };
            return Err(ModelError::tokenizer(file, message));
        };
        pipeline::try_once(&tokenizer)
            .map_err(|why| ModelError::tokenizer(file, format!("cannot encode a text: {why}")))?;
        let added = AddedTokens::of(&tokenizer);
        Ok(Tokenizer {
            inner: Arc::new(Inner {
                tokenizer,
                added,
                pieces,
                prefix,
                twins,
                vocab_size,
            }),
        })
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
            .map_err(EncodeError::of)?;
        let prefix = self.inner.prefix.filter(|_| add_special);
        Ok(prefix.iter().chain(encoding.get_ids()).copied().collect())
    }

    /// Ids of a rendered chat: the template's special tokens are special, a user's are text.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode_chat(&self, rendered: &Rendered) -> Result<Vec<u32>, EncodeError> {
        if rendered.literal.is_empty() {
            return self.encode(&rendered.text, false);
        }
        let Inner {
            tokenizer, added, ..
        } = &*self.inner;
        literal::encode(tokenizer, added, &rendered.text, &rendered.literal)
            .map_err(EncodeError::of)
    }

    /// Ids between the special tokens that [`Tokenizer::encode`] puts around a text.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn surrounded(&self, ids: Vec<u32>) -> Result<Vec<u32>, EncodeError> {
        let (bare, whole) = (self.encode("a", false)?, self.encode("a", true)?);
        let Some(at) = whole.windows(bare.len()).position(|part| part == bare) else {
            return Ok(ids);
        };
        let (before, after) = (&whole[..at], &whole[at + bare.len()..]);
        Ok([before, &ids, after].concat())
    }

    /// The text of ids. Ids the tokenizer does not know are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let ids: Vec<u32> = ids.iter().map(|id| self.known(*id)).collect();
        // Byte-level and SentencePiece decoders, the only ones accepted, do not fail.
        self.inner
            .tokenizer
            .decode(&ids, skip_special)
            .unwrap_or_default()
    }

    /// Decodes a sequence token by token; never cuts a character.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream::new(self.clone(), skip_special)
    }

    /// The bytes one token stands for inside a text (`logprobs.content[].bytes`); empty for an
    /// unknown id.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let (tokenizer, id) = (&self.inner.tokenizer, self.known(id));
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        if let Some(token) = added.get(&id) {
            return token.content.clone().into_bytes();
        }
        tokenizer
            .id_to_token(id)
            .map_or_else(Vec::new, |piece| self.inner.pieces.bytes(&piece))
    }

    /// The text of one token, lossy where it is a part of a character (`logprobs.content[].token`).
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(&self.token_bytes(id)).into_owned()
    }

    pub fn is_special(&self, id: u32) -> bool {
        let added = self
            .inner
            .tokenizer
            .get_added_vocabulary()
            .get_added_tokens_decoder();
        added
            .get(&self.known(id))
            .is_some_and(|token| token.special)
    }

    /// The id under which the library knows a token.
    fn known(&self, id: u32) -> u32 {
        self.inner.twins.get(&id).copied().unwrap_or(id)
    }

    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.tokenizer.token_to_id(token)
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> u32 {
        self.inner.vocab_size
    }

    /// The special token whose text begins at byte `at` of `text`.
    pub(crate) fn special_at<'a>(&'a self, text: &str, at: usize) -> Option<&'a str> {
        self.inner.added.special_at(text, at)
    }
}

impl EncodeError {
    fn of(error: tokenizers::Error) -> EncodeError {
        EncodeError {
            message: shorten(&error.to_string()),
        }
    }
}

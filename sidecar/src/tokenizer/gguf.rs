//! The tokenizer a GGUF's metadata describe: checked here, built in `build`.

use crate::model::ModelError;
use crate::model::error::shorten;
use crate::weights::gguf::metadata::Metadata;

/// Token types of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    /// Special: parsed in prompts, skipped in answers.
    Control,
    /// Added by a user: never cut, but text.
    UserDefined,
    Unused,
    Byte,
}

/// How text is cut into words before merging (`tokenizer.ggml.pre`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// The pattern of GPT-2.
    Gpt2,
    /// Every digit alone, then GPT-2.
    DigitsGpt2,
    /// Llama 3: up to three digits together, contractions of any case.
    Llama3,
    /// Qwen 2: as Llama 3 with single digits, text in NFC.
    Qwen2,
}

const PRE_TOKENIZERS: [(&str, PreTokenizer); 9] = [
    ("gpt-2", PreTokenizer::Gpt2),
    ("smollm", PreTokenizer::DigitsGpt2),
    ("starcoder", PreTokenizer::DigitsGpt2),
    ("refact", PreTokenizer::DigitsGpt2),
    ("llama-bpe", PreTokenizer::Llama3),
    ("llama3", PreTokenizer::Llama3),
    ("llama-v3", PreTokenizer::Llama3),
    ("qwen2", PreTokenizer::Qwen2),
    ("deepseek-r1-qwen", PreTokenizer::Qwen2),
];

/// `tokenizer.ggml.*` of a file.
#[derive(Clone, Debug)]
pub struct GgufTokenizer {
    /// The file, for messages.
    pub(super) file: String,
    pub(super) tokens: Vec<String>,
    /// As long as `tokens`.
    pub(super) kinds: Vec<Kind>,
    pub(super) merges: Vec<String>,
    pub(super) pre: PreTokenizer,
    /// Put before a prompt that asks for special tokens.
    pub(super) prefix: Option<u32>,
}

impl GgufTokenizer {
    /// Takes the lists out of the metadata.
    ///
    /// # Errors
    /// [`ModelError::InvalidTokenizer`], naming the key.
    pub(crate) fn from_metadata(metadata: &mut Metadata) -> Result<GgufTokenizer, ModelError> {
        let file = metadata.file.clone();
        let refuse = |message: String| Err(ModelError::tokenizer(&file, message));
        match metadata.string("tokenizer.ggml.model")? {
            Some("gpt2") => {}
            Some(other) => {
                return refuse(format!(
                    "metadata `tokenizer.ggml.model` is `{}`; supported: gpt2",
                    shorten(other)
                ));
            }
            None => return refuse("metadata `tokenizer.ggml.model` is missing".into()),
        }
        let pre = pre_tokenizer(metadata)?;
        let Some(tokens) = metadata.strings("tokenizer.ggml.tokens")? else {
            return refuse("metadata `tokenizer.ggml.tokens` is missing".into());
        };
        let Some(merges) = metadata.strings("tokenizer.ggml.merges")? else {
            return refuse("metadata `tokenizer.ggml.merges` is missing".into());
        };
        let kinds = match metadata.integers("tokenizer.ggml.token_type")? {
            Some(kinds) => kinds,
            None => vec![1; tokens.len()],
        };
        if tokens.is_empty() || kinds.len() != tokens.len() {
            return refuse(format!(
                "{} tokens and {} token types; expected as many of both",
                tokens.len(),
                kinds.len()
            ));
        }
        let kinds = kinds.into_iter().enumerate().map(|(id, kind)| match kind {
            1 => Ok(Kind::Normal),
            2 => Ok(Kind::Unknown),
            3 => Ok(Kind::Control),
            4 => Ok(Kind::UserDefined),
            5 => Ok(Kind::Unused),
            6 => Ok(Kind::Byte),
            _ => {
                let message = format!("token {id} has the unknown token type {kind}");
                Err(ModelError::tokenizer(&file, message))
            }
        });
        let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
        // llama.cpp adds it to Llama 3 prompts unless the file says no.
        let add_bos = metadata
            .bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or(pre == PreTokenizer::Llama3);
        let bos = token_id(metadata, "tokenizer.ggml.bos_token_id", tokens.len())?;
        let prefix = bos.filter(|_| add_bos);
        Ok(GgufTokenizer {
            file,
            tokens,
            kinds,
            merges,
            pre,
            prefix,
        })
    }

    /// The text of one token.
    pub(crate) fn token(&self, id: u32) -> Option<&str> {
        self.tokens.get(id as usize).map(String::as_str)
    }
}

fn pre_tokenizer(metadata: &Metadata) -> Result<PreTokenizer, ModelError> {
    const KEY: &str = "tokenizer.ggml.pre";
    let found = metadata.string(KEY)?.unwrap_or("");
    PRE_TOKENIZERS
        .iter()
        .find(|(name, _)| *name == found)
        .map(|(_, pre)| *pre)
        .ok_or_else(|| {
            let names = PRE_TOKENIZERS.map(|(name, _)| name).join(", ");
            let message = format!(
                "metadata `{KEY}` is `{}`; supported: {names}",
                shorten(found)
            );
            ModelError::tokenizer(&metadata.file, message)
        })
}

/// A token id of the metadata, checked against the vocabulary.
pub(crate) fn token_id(
    metadata: &Metadata,
    key: &str,
    tokens: usize,
) -> Result<Option<u32>, ModelError> {
    match metadata.integer(key)? {
        None => Ok(None),
        Some(id) => match u32::try_from(id) {
            Ok(small) if id < tokens as u64 => Ok(Some(small)),
            _ => {
                let message = format!("metadata `{key}` is {id}, there are {tokens} tokens");
                Err(ModelError::tokenizer(&metadata.file, message))
            }
        },
    }
}

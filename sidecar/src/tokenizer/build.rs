//! Builds the tokenizer of a GGUF file, equal to the `tokenizer.json` the file was made from.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer};

use super::gguf::{Algorithm, GgufTokenizer, Kind, PreTokenizer};
use super::sentencepiece;
use crate::model_error::{ModelError, shorten};

/// The words of Llama 3's `tokenizer.json`.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The words of Qwen 2's `tokenizer.json`.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The words of Mistral's `tokenizer.json` (Nemo and later).
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// llama.cpp's cuts for a file that names none, one after the other.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// # Errors
/// [`ModelError::InvalidTokenizer`]: a merge of unknown tokens.
pub(super) fn build(metadata: &GgufTokenizer) -> Result<Tokenizer, ModelError> {
    let file = metadata.file.as_str();
    let refuse = |message: String| ModelError::tokenizer(file, message);
    let mut vocabulary = Vocab::default();
    // Of equal texts the last is what a text becomes, as in llama.cpp (`GgufTokenizer::twins`).
    for (id, token) in (0u32..).zip(&metadata.tokens) {
        vocabulary.insert(token.clone(), id);
    }
    let mut tokenizer = match &metadata.algorithm {
        Algorithm::ByteLevel { pre, merges } => byte_level(file, vocabulary, *pre, merges)?,
        Algorithm::SentencePiece {
            scores,
            space_prefix,
        } => sentencepiece::build(metadata, vocabulary, scores, *space_prefix)?,
    };
    tokenizer
        .add_tokens(added(metadata))
        .map_err(|e| refuse(e.to_string()))?;
    Ok(tokenizer)
}

fn byte_level(
    file: &str,
    vocabulary: Vocab,
    pre: PreTokenizer,
    list: &[String],
) -> Result<Tokenizer, ModelError> {
    let refuse = |message: String| ModelError::tokenizer(file, message);
    let mut merges = Vec::with_capacity(list.len());
    for merge in list {
        let Some((left, right)) = merge.split_once(' ') else {
            let merge = shorten(merge);
            return Err(refuse(format!(
                "`{merge}` in tokenizer.ggml.merges is not two tokens"
            )));
        };
        // The library takes this for granted.
        let whole = [left, right].concat();
        if ![left, right, &whole]
            .iter()
            .all(|token| vocabulary.contains_key(*token))
        {
            let (left, right) = (shorten(left), shorten(right));
            return Err(refuse(format!(
                "tokenizer.ggml.merges merges `{left}` and `{right}` to a token that is not there"
            )));
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(pre.is_whole_words())
        .build()
        .map_err(|e| refuse(format!("tokenizer.ggml.merges: {e}")))?;
    let mut tokenizer = Tokenizer::new(model);
    if pre == PreTokenizer::Qwen2 {
        tokenizer
            .with_normalizer(Some(NFC))
            .map_err(|e| refuse(e.to_string()))?;
    }
    let words = words(pre).map_err(|e| refuse(e.to_string()))?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(words)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    Ok(tokenizer)
}

fn words(pre: PreTokenizer) -> tokenizers::Result<Vec<PreTokenizerWrapper>> {
    let pattern = |pattern: &str| {
        Split::new(
            SplitPattern::Regex(pattern.into()),
            SplitDelimiterBehavior::Isolated,
            false,
        )
    };
    // The last argument: whether ByteLevel cuts words itself, by GPT-2's pattern.
    let bytes = |gpt2_pattern: bool| ByteLevel::new(false, true, gpt2_pattern);
    Ok(match pre {
        PreTokenizer::Gpt2 => vec![bytes(true).into()],
        PreTokenizer::DigitsGpt2 => vec![Digits::new(true).into(), bytes(true).into()],
        PreTokenizer::Llama3 | PreTokenizer::Smaug => {
            vec![pattern(LLAMA3)?.into(), bytes(false).into()]
        }
        PreTokenizer::Qwen2 => vec![pattern(QWEN2)?.into(), bytes(false).into()],
        PreTokenizer::Tekken => vec![pattern(TEKKEN)?.into(), bytes(false).into()],
        PreTokenizer::Default => {
            let mut steps = Vec::new();
            for cut in DEFAULT {
                steps.push(pattern(cut)?.into());
            }
            steps.push(bytes(false).into());
            steps
        }
    })
}

/// Tokens that are never cut: control tokens are special, a user's are not.
fn added(metadata: &GgufTokenizer) -> Vec<AddedToken> {
    let kinds = metadata.tokens.iter().zip(&metadata.kinds);
    kinds
        .filter(|(token, _)| !token.is_empty())
        .filter_map(|(token, kind)| match kind {
            Kind::Control | Kind::Unknown => {
                Some(AddedToken::from(token.clone(), true).normalized(false))
            }
            Kind::UserDefined => Some(AddedToken::from(token.clone(), false).normalized(false)),
            Kind::Normal | Kind::Unused | Kind::Byte => None,
        })
        .collect()
}

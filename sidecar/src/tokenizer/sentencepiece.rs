//! SentencePiece BPE (Llama 2, Mistral) as merges: the file has a score per token instead of a
//! list, and the pair whose result has the highest score is merged first.

use tokenizers::Tokenizer;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Sequence as Normalizers};

use super::gguf::{GgufTokenizer, Kind};
use crate::model_error::{ModelError, shorten};

/// SentencePiece writes a blank so.
const BLANK: &str = "\u{2581}";
/// Published vocabularies have pieces of at most 48 bytes; every cut of a piece is looked up.
const PIECE_BYTES_MAX: usize = 512;

pub(super) fn build(
    metadata: &GgufTokenizer,
    vocabulary: Vocab,
    scores: &[f32],
    space_prefix: bool,
) -> Result<Tokenizer, ModelError> {
    let refuse = |message: String| ModelError::tokenizer(&metadata.file, message);
    let failed = |e: tokenizers::Error| refuse(e.to_string());
    let merges = merges(metadata, &vocabulary, scores).map_err(refuse)?;
    let mut model = BPE::builder()
        .byte_fallback(metadata.kinds.contains(&Kind::Byte))
        .fuse_unk(true)
        .vocab_and_merges(vocabulary, merges);
    let unknown = metadata
        .kinds
        .iter()
        .position(|kind| *kind == Kind::Unknown);
    if let Some(unknown) = unknown {
        model = model.unk_token(metadata.tokens[unknown].clone());
    }
    let mut tokenizer = Tokenizer::new(model.build().map_err(failed)?);
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if space_prefix {
        steps.push(Prepend::new(BLANK.to_owned()).into());
    }
    steps.push(Replace::new(" ", BLANK).map_err(failed)?.into());
    tokenizer
        .with_normalizer(Some(Normalizers::new(steps)))
        .map_err(failed)?;
    let mut steps: Vec<DecoderWrapper> = vec![
        Replace::new(BLANK, " ").map_err(failed)?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if space_prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Decoders::new(steps)));
    Ok(tokenizer)
}

/// Every way to cut a piece into two pieces, the best piece first.
fn merges(metadata: &GgufTokenizer, vocabulary: &Vocab, scores: &[f32]) -> Result<Merges, String> {
    let is_text = |id: usize| matches!(metadata.kinds[id], Kind::Normal | Kind::UserDefined);
    let text_id = |piece: &str| {
        let id = usize::try_from(*vocabulary.get(piece)?).ok()?;
        is_text(id).then_some(id)
    };
    let mut found = Vec::new();
    for (id, piece) in metadata
        .tokens
        .iter()
        .enumerate()
        .filter(|(id, piece)| is_text(*id) && text_id(piece) == Some(*id))
    {
        if piece.len() > PIECE_BYTES_MAX {
            let shown = shorten(piece);
            return Err(format!(
                "token {id} (`{shown}`) has {} bytes, at most {PIECE_BYTES_MAX}",
                piece.len()
            ));
        }
        for (cut, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(cut);
            if let (Some(left_id), Some(right_id)) = (text_id(left), text_id(right)) {
                found.push((scores[id], left_id, right_id, left, right));
            }
        }
    }
    found.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
    });
    let pairs = found
        .into_iter()
        .map(|(_, _, _, left, right)| (left.to_owned(), right.to_owned()));
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::Tokenizer;
    use super::super::gguf::{Algorithm, GgufTokenizer, Kind};

    /// The pieces that are text, with scores all different.
    const PIECES: [(&str, f32); 15] = [
        ("▁", -9.0),
        ("a", -10.0),
        ("b", -11.0),
        ("c", -12.0),
        ("é", -13.0),
        ("ab", -1.0),
        ("bc", -2.0),
        ("abc", -3.5),
        ("▁a", -4.0),
        ("▁ab", -2.5),
        ("cab", -5.0),
        ("▁▁", -0.5),
        ("▁▁▁▁", -0.75),
        ("bb", -6.0),
        ("éa", -7.0),
    ];

    fn metadata(space_prefix: bool) -> GgufTokenizer {
        let special = [
            ("<unk>", Kind::Unknown),
            ("<s>", Kind::Control),
            ("</s>", Kind::Control),
        ];
        let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
        let mut metadata = GgufTokenizer {
            file: "test.gguf".into(),
            tokens: special.iter().map(|(token, _)| (*token).into()).collect(),
            kinds: special.iter().map(|(_, kind)| *kind).collect(),
            algorithm: Algorithm::SentencePiece {
                scores: Vec::new(),
                space_prefix,
            },
            prefix: Some(1),
        };
        metadata.tokens.extend(bytes);
        metadata.kinds.resize(259, Kind::Byte);
        metadata
            .tokens
            .extend(PIECES.map(|(piece, _)| piece.to_owned()));
        metadata.kinds.resize(259 + PIECES.len(), Kind::Normal);
        let mut scores = vec![0.0; 259];
        scores.extend(PIECES.map(|(_, score)| score));
        metadata.algorithm = Algorithm::SentencePiece {
            scores,
            space_prefix,
        };
        metadata
    }

    /// SentencePiece's own rule, without any cleverness.
    fn reference(text: &str, space_prefix: bool) -> Vec<u32> {
        if text.is_empty() {
            return Vec::new();
        }
        let ids: HashMap<&str, u32> = PIECES.iter().map(|(p, _)| *p).zip(259..).collect();
        let scores: HashMap<&str, f32> = PIECES.into_iter().collect();
        let prefix = if space_prefix { " " } else { "" };
        let text = format!("{prefix}{text}").replace(' ', "▁");
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let score = |i: usize| scores.get(symbols[i..i + 2].concat().as_str()).copied();
            // The first of the best.
            let best = (0..symbols.len().saturating_sub(1))
                .filter_map(|i| Some((i, score(i)?)))
                .fold(None, |best: Option<(usize, f32)>, (i, score)| match best {
                    Some((_, other)) if other >= score => best,
                    _ => Some((i, score)),
                });
            let Some((at, _)) = best else { break };
            let merged = symbols.drain(at..at + 2).collect::<Vec<_>>().concat();
            symbols.insert(at, merged);
        }
        let ids_of = |symbol: &String| match ids.get(symbol.as_str()) {
            Some(id) => vec![*id],
            None => symbol.bytes().map(|byte| 3 + u32::from(byte)).collect(),
        };
        symbols.iter().flat_map(ids_of).collect()
    }

    #[test]
    fn special_tokens_bytes_and_the_leading_blank() {
        let tokenizer = Tokenizer::from_gguf(&metadata(true)).unwrap();
        let id = |piece: &str| tokenizer.token_id(piece).unwrap();
        assert_eq!(tokenizer.encode("ab", true).unwrap(), [1, id("▁ab")]);
        assert_eq!(
            tokenizer.encode("<s>ab</s>", false).unwrap(),
            [1, id("▁ab"), 2]
        );
        let ids = tokenizer.encode("a\n🦀", false).unwrap();
        assert_eq!(
            ids,
            [id("▁a"), 3 + 0x0a, 3 + 0xf0, 3 + 0x9f, 3 + 0xa6, 3 + 0x80]
        );
        assert_eq!(tokenizer.decode(&ids, false), "a\n🦀");
        let mut stream = tokenizer.decode_stream(true);
        let streamed: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
        assert_eq!(
            streamed,
            [" a", "\n", "", "", "", "🦀"],
            "a continuation keeps its blank"
        );
    }

    #[test]
    fn scores_must_fit_and_pieces_be_short() {
        let mut long = metadata(true);
        long.tokens[260] = "a".repeat(513);
        let error = Tokenizer::from_gguf(&long).unwrap_err().to_string();
        assert!(
            error.contains("token 260") && error.contains("513 bytes"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn texts_have_sentencepieces_own_ids(text in "[abcé \\n]{0,24}", space_prefix: bool) {
            let tokenizer = Tokenizer::from_gguf(&metadata(space_prefix)).unwrap();
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(&ids, &reference(&text, space_prefix));
            prop_assert_eq!(tokenizer.decode(&ids, false), text);
        }
    }
}

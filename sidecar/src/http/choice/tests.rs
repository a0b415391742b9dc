//! Texts, stop strings and special tokens, token by token.

use super::*;
use crate::http::testing::tokenizer;

fn logprobs() -> Option<TokenLogprobs> {
    Some(TokenLogprobs {
        logprob: -0.5,
        top: vec![],
    })
}

fn run(text: &str, stop: &[&str], end: EndReason) -> (String, Vec<usize>, Option<EndReason>) {
    let tokenizer = tokenizer();
    let ending = Ending {
        stops: stop.iter().map(|s| (*s).to_owned()).collect(),
        ids: vec![2],
        skip_special: true,
        ..Ending::default()
    };
    let mut choice = Choice::new(&tokenizer, ending, None);
    let (mut out, mut offsets, mut last) = (String::new(), vec![], None);
    let mut take = |piece: Piece| {
        out.push_str(&piece.text);
        offsets.extend(piece.scored.iter().map(|scored| scored.offset));
        last = last.or(piece.end);
    };
    for id in tokenizer.encode(text, false).unwrap() {
        take(choice.push(id, logprobs()));
    }
    take(choice.push(2, logprobs()));
    take(choice.finish(end));
    (out, offsets, last)
}

#[test]
fn text_survives_whatever_the_tokens_cut() {
    let text = "naïve 日本語 🦀 done";
    let (out, offsets, end) = run(text, &[], EndReason::Stop);
    assert_eq!(out, text);
    assert_eq!(end, Some(EndReason::Stop));
    let tokens = tokenizer().encode(text, false).unwrap().len();
    assert_eq!(offsets.len(), tokens, "the end token is not reported");
    assert!(offsets.is_sorted());
}

#[test]
fn a_stop_string_takes_its_tokens_along() {
    let (out, offsets, end) = run("one two three", &["two"], EndReason::Length);
    assert_eq!((out.as_str(), end), ("one ", Some(EndReason::Stop)));
    assert!(
        offsets.iter().all(|offset| *offset < "one ".len()),
        "{offsets:?}"
    );
    let (out, _, end) = run("one two three", &["tree"], EndReason::Length);
    assert_eq!(
        (out.as_str(), end),
        ("one two three", Some(EndReason::Length))
    );
}

/// What is shown of `text` (special tokens parsed), and whether it was stopped.
fn shown(text: &str, stop: &[&str], change: impl Fn(&mut Ending)) -> (String, EndReason) {
    let tokenizer = tokenizer();
    let mut ending = Ending {
        stops: stop.iter().map(|s| (*s).to_owned()).collect(),
        skip_special: true,
        ..Ending::default()
    };
    change(&mut ending);
    let mut choice = Choice::new(&tokenizer, ending, None);
    let mut out = String::new();
    for id in tokenizer.encode(text, false).unwrap() {
        out.push_str(&choice.push(id, None).text);
    }
    let last = choice.finish(EndReason::Length);
    (out + &last.text, last.end.unwrap())
}

#[test]
fn a_stop_string_may_be_a_special_token_or_hold_one() {
    use EndReason::{Length, Stop};
    let skip = |_: &mut Ending| {};
    let keep = |ending: &mut Ending| ending.skip_special = false;
    let include = |ending: &mut Ending| ending.include_stop = true;
    let text = "one<|im_start|> two<|im_end|>three";
    for (stop, change, shown_text, end) in [
        (
            &[][..],
            &skip as &dyn Fn(&mut Ending),
            "one twothree",
            Length,
        ),
        (&[], &keep, text, Length),
        (&["<|im_end|>"], &skip, "one two", Stop),
        (&["<|im_end|>"], &keep, "one<|im_start|> two", Stop),
        (&["<|im_end|>"], &include, "one two<|im_end|>", Stop),
        (&["two<|im_end|>th"], &skip, "one ", Stop),
        (&["two"], &include, "one two", Stop),
        // Held back for a stop string that never comes, in the middle of a special token too.
        (&["<|im_end|>thrust"], &skip, "one twothree", Length),
        (&["end|>thrust"], &skip, "one twothree", Length),
        (&["<|im_end|>thrust"], &keep, text, Length),
    ] {
        let got = shown(text, stop, change);
        assert_eq!(got, (shown_text.to_owned(), end), "{stop:?}");
    }
}

#[test]
fn a_special_token_within_a_character_does_not_break_it() {
    let tokenizer = tokenizer();
    let mut ids = tokenizer.encode("é", false).unwrap();
    assert_eq!(ids.len(), 2);
    ids.insert(1, 1);
    let ending = Ending {
        skip_special: true,
        ..Ending::default()
    };
    let mut choice = Choice::new(&tokenizer, ending, None);
    let mut text = String::new();
    for id in ids {
        text.push_str(&choice.push(id, None).text);
    }
    assert_eq!(text, "é");
}

#[test]
fn the_token_that_ends_is_text_only_where_it_is_asked_for() {
    let tokenizer = tokenizer();
    for (include_stop, expected, count) in [(false, "one", 0), (true, "one<|im_end|>", 1)] {
        let ending = Ending {
            ids: vec![2],
            include_stop,
            skip_special: true,
            ..Ending::default()
        };
        let mut choice = Choice::new(&tokenizer, ending, None);
        let mut text = String::new();
        for id in tokenizer.encode("one", false).unwrap() {
            text.push_str(&choice.push(id, None).text);
        }
        let piece = choice.push(2, logprobs());
        let last = choice.finish(EndReason::Stop);
        text.push_str(&piece.text);
        text.push_str(&last.text);
        assert_eq!(text, expected);
        assert_eq!(piece.scored.len() + last.scored.len(), count);
    }
}

#[test]
fn an_echo_leaves_with_the_first_piece_and_counts_in_offsets() {
    let tokenizer = tokenizer();
    let ids = tokenizer.encode("né", false).unwrap();
    for scored in [false, true] {
        let echo = Echo::new(&tokenizer, ids.clone(), scored);
        let ending = Ending {
            ids: vec![2],
            ..Ending::default()
        };
        let mut choice = Choice::new(&tokenizer, ending, Some(echo));
        choice.push_prompt(ids[1..].iter().filter_map(|_| logprobs()).collect());
        let first = choice.push(tokenizer.encode("x", false).unwrap()[0], logprobs());
        assert_eq!(first.text, "néx");
        let known: Vec<bool> = first.scored.iter().map(|s| s.logprobs.is_some()).collect();
        let offsets: Vec<usize> = first.scored.iter().map(|s| s.offset).collect();
        let end = (choice.push(2, logprobs()), choice.finish(EndReason::Stop));
        assert_eq!((end.0, end.1.text.as_str()), (Piece::default(), ""));
        if scored {
            assert_eq!(known, [false, true, true, true]);
            assert_eq!(offsets, [0, 1, 1, 2]);
            assert_eq!(
                end.1.scored.len(),
                1,
                "the end counts where a prompt is scored"
            );
        } else {
            assert_eq!((known.len(), end.1.scored.len()), (1, 0));
            assert_eq!(offsets, [2]);
        }
    }
}

#[test]
fn no_stop_string_counts_within_the_least_number_of_tokens() {
    let least = |min_tokens| move |ending: &mut Ending| ending.min_tokens = min_tokens;
    // Nine characters of a token each, some joined.
    let tokens = tokenizer().encode("x", false).unwrap().len();
    assert_eq!(tokens, 1);
    let (text, end) = shown("xqxqxq", &["q"], least(0));
    assert_eq!((text.as_str(), end), ("x", EndReason::Stop));
    let (text, end) = shown("xqxqxq", &["q"], least(3));
    assert_eq!((text.as_str(), end), ("xqx", EndReason::Stop));
    let (text, end) = shown("xqxqxq", &["q"], least(6));
    assert_eq!((text.as_str(), end), ("xqxqxq", EndReason::Length));
}

/// Tokens of single bytes, with offsets as they are told: of an echoed prompt, and of an answer.
fn offsets_of(prompt: &[u8], answer: &[u8], stop: &[&str]) -> (String, Vec<usize>) {
    let tokenizer = tokenizer();
    let ids = |bytes: &[u8]| -> Vec<u32> {
        let of = |byte: &u8| {
            let mut all = 0..tokenizer.vocab_size();
            all.find(|id| tokenizer.token_bytes(*id) == [*byte])
                .unwrap()
        };
        bytes.iter().map(of).collect()
    };
    let prompt = ids(prompt);
    let echo = (!prompt.is_empty()).then(|| Echo::new(&tokenizer, prompt.clone(), true));
    let ending = Ending {
        stops: stop.iter().map(|stop| (*stop).to_owned()).collect(),
        ids: vec![2],
        ..Ending::default()
    };
    let mut choice = Choice::new(&tokenizer, ending, echo);
    choice.push_prompt(prompt.iter().skip(1).filter_map(|_| logprobs()).collect());
    let mut pieces: Vec<Piece> = Vec::new();
    for id in ids(answer).into_iter().chain([2]) {
        pieces.push(choice.push(id, logprobs()));
    }
    pieces.push(choice.finish(EndReason::Stop));
    let text = pieces.iter().map(|piece| piece.text.as_str()).collect();
    let scored = pieces.iter().flat_map(|piece| &piece.scored);
    (text, scored.map(|scored| scored.offset).collect())
}

#[test]
fn a_character_that_never_ends_counts_before_the_token_that_breaks_it() {
    for (prompt, answer, text, offsets) in [
        // In an answer, before a letter, before another character's beginning, and at the end.
        ("", &b"\xc9 l"[..], "\u{fffd} l", &[0, 1, 2][..]),
        ("", b"\xc9\xc3\xa9", "\u{fffd}é", &[0, 1, 1]),
        ("", b"a\xf0\x9f", "a\u{fffd}", &[0, 1, 1]),
        ("", b"\xf0\x9fx", "\u{fffd}x", &[0, 0, 1]),
        // Behind an echo; the end of the sequence is told there, too.
        ("é", b"\xc9 l", "é\u{fffd} l", &[0, 0, 1, 2, 3, 4]),
        ("é", b"\xc9", "é\u{fffd}", &[0, 0, 1, 2]),
    ] {
        let got = offsets_of(prompt.as_bytes(), answer, &[]);
        assert_eq!(got, (text.to_owned(), offsets.to_vec()), "{text}");
    }
    // In a prompt.
    let (text, offsets) = offsets_of(b"\xc9a\xc3", b"b", &[]);
    assert_eq!(text, "\u{fffd}a\u{fffd}b");
    assert_eq!(offsets, [0, 1, 2, 3, 4]);
    // A token whose whole text is a stop string is not told of.
    let (text, offsets) = offsets_of(b"", b"\xc9lx", &["l"]);
    assert_eq!((text.as_str(), offsets), ("\u{fffd}", vec![0]));
}

//! Sampling values that a model's publisher recommends: what requests get that name none, as vLLM
//! does it by default.
//!
//! A value that no request could ask for is ignored and told, not refused: the model can be served
//! without it, and whoever runs it can seldom change its files.

use std::ops::RangeInclusive;

use crate::model_error::shorten;
use crate::weights::gguf::metadata::Found;

/// What requests may ask for, and so what a model may recommend. OpenAI's range.
pub const TEMPERATURE: RangeInclusive<f64> = 0.0..=2.0;
/// 0 itself is refused: nothing would be left to draw.
pub const TOP_P_MAX: f64 = 1.0;
pub const MIN_P: RangeInclusive<f64> = 0.0..=1.0;
/// 0 itself is refused: it divides.
pub const REPETITION_PENALTY_MAX: f64 = 10.0;

/// None where the model says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    pub temperature: Option<f32>,
    /// 0: all tokens.
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
    /// Tokens of a chat's answer, where the request does not say.
    pub max_new_tokens: Option<u32>,
}

/// A model's recommendations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelSampling {
    pub defaults: SamplingDefaults,
    /// Values that were not taken, each with file, field, value and what was expected.
    pub ignored: Vec<String>,
}

/// What a file calls the values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) temperature: &'static str,
    pub(crate) top_k: &'static str,
    pub(crate) top_p: &'static str,
    pub(crate) min_p: &'static str,
    pub(crate) repetition_penalty: &'static str,
    /// None where the format has no such field.
    pub(crate) max_new_tokens: Option<&'static str>,
}

impl ModelSampling {
    /// `get` finds a field of `file`; None where it is absent.
    pub(crate) fn read(
        file: &str,
        names: &Names,
        vocabulary: u32,
        get: impl Fn(&str) -> Option<Found>,
    ) -> ModelSampling {
        let mut ignored = Vec::new();
        let mut number = |name: &str, range: RangeInclusive<f64>, zero: bool| {
            let found = get(name)?;
            #[expect(clippy::cast_possible_truncation, reason = "sampling computes in f32")]
            let value = match found {
                Found::Number(number) if range.contains(&number) => Some(number as f32),
                _ => None,
            };
            let value = value.filter(|value| zero || *value != 0.0);
            if value.is_none() {
                ignored.push(complaint(file, name, &found, &range, zero));
            }
            value
        };
        let temperature = number(names.temperature, TEMPERATURE, true);
        let top_p = number(names.top_p, 0.0..=TOP_P_MAX, false);
        let min_p = number(names.min_p, MIN_P, true);
        let repetition_penalty = number(
            names.repetition_penalty,
            0.0..=REPETITION_PENALTY_MAX,
            false,
        );
        let top_k = get(names.top_k).and_then(|found| {
            let range = -1.0..=f64::from(vocabulary);
            match found {
                Found::Number(k) if range.contains(&k) && k.fract() == 0.0 => {
                    // Some files write "all tokens" as -1, others as 0.
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a whole number of u32's range"
                    )]
                    Some(k.max(0.0) as u32)
                }
                _ => {
                    ignored.push(complaint(file, names.top_k, &found, &range, true));
                    None
                }
            }
        });
        let max_new_tokens = names.max_new_tokens.and_then(|name| {
            let range = 1.0..=f64::from(u32::MAX);
            match get(name)? {
                Found::Number(n) if range.contains(&n) && n.fract() == 0.0 =>
                {
                    #[expect(
                        clippy::cast_possible_truncation,
                        clippy::cast_sign_loss,
                        reason = "a whole number of u32's range"
                    )]
                    Some(n as u32)
                }
                found => {
                    ignored.push(complaint(file, name, &found, &range, true));
                    None
                }
            }
        });
        let defaults = SamplingDefaults {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            max_new_tokens,
        };
        ModelSampling { defaults, ignored }
    }
}

fn complaint(
    file: &str,
    name: &str,
    found: &Found,
    range: &RangeInclusive<f64>,
    zero: bool,
) -> String {
    let found = match found {
        Found::Number(number) => number.to_string(),
        Found::Other(text) => shorten(text),
    };
    let (start, end) = (range.start(), range.end());
    let expected = if zero {
        format!("a number from {start} to {end}")
    } else {
        format!("a number above {start}, up to {end}")
    };
    format!("{file}: {name} is {found}, expected {expected}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names {
        temperature: "t",
        top_k: "k",
        top_p: "p",
        min_p: "m",
        repetition_penalty: "r",
        max_new_tokens: Some("n"),
    };

    fn read(name: &str, found: Found) -> ModelSampling {
        ModelSampling::read("f", &NAMES, 100, |asked| {
            (asked == name).then(|| found.clone())
        })
    }

    #[test]
    fn what_requests_may_ask_for_a_model_may_recommend() {
        let of = |name, number| read(name, Found::Number(number)).defaults;
        let none = SamplingDefaults::default();
        assert_eq!(read("x", Found::Number(1.0)), ModelSampling::default());
        for temperature in [0.0, 0.6, 2.0] {
            #[expect(clippy::cast_possible_truncation, reason = "as sampling has it")]
            let expected = Some(temperature as f32);
            assert_eq!(of("t", temperature).temperature, expected);
        }
        for (k, expected) in [(-1.0, 0), (0.0, 0), (20.0, 20), (100.0, 100)] {
            assert_eq!(of("k", k).top_k, Some(expected));
        }
        let expected = SamplingDefaults {
            top_p: Some(0.5),
            ..none.clone()
        };
        assert_eq!(of("p", 0.5), expected);
        let expected = SamplingDefaults {
            min_p: Some(0.0),
            ..none.clone()
        };
        assert_eq!(of("m", 0.0), expected);
        let expected = SamplingDefaults {
            repetition_penalty: Some(1.25),
            ..none
        };
        assert_eq!(of("r", 1.25), expected);
        assert_eq!(of("n", 512.0).max_new_tokens, Some(512));
    }

    #[test]
    fn what_no_request_may_ask_for_is_ignored_and_told() {
        let text = |text: &str| Found::Other(text.to_owned());
        for (name, found, told) in [
            (
                "t",
                Found::Number(-1.0),
                "f: t is -1, expected a number from 0 to 2",
            ),
            (
                "t",
                Found::Number(2.5),
                "f: t is 2.5, expected a number from 0 to 2",
            ),
            (
                "t",
                Found::Number(f64::NAN),
                "f: t is NaN, expected a number from 0 to 2",
            ),
            (
                "t",
                text("\"0.7\""),
                "f: t is \"0.7\", expected a number from 0 to 2",
            ),
            (
                "k",
                Found::Number(-2.0),
                "f: k is -2, expected a number from -1 to 100",
            ),
            (
                "k",
                Found::Number(101.0),
                "f: k is 101, expected a number from -1 to 100",
            ),
            (
                "k",
                Found::Number(1.5),
                "f: k is 1.5, expected a number from -1 to 100",
            ),
            (
                "k",
                text("[1]"),
                "f: k is [1], expected a number from -1 to 100",
            ),
            (
                "p",
                Found::Number(0.0),
                "f: p is 0, expected a number above 0, up to 1",
            ),
            (
                "p",
                Found::Number(1.1),
                "f: p is 1.1, expected a number above 0, up to 1",
            ),
            (
                "m",
                Found::Number(-0.1),
                "f: m is -0.1, expected a number from 0 to 1",
            ),
            (
                "r",
                Found::Number(1e-60),
                "expected a number above 0, up to 10",
            ),
            (
                "r",
                Found::Number(f64::INFINITY),
                "f: r is inf, expected a number above 0",
            ),
        ] {
            let read = read(name, found);
            assert_eq!(read.defaults, SamplingDefaults::default(), "{told}");
            let [line] = &read.ignored[..] else {
                panic!("{told}: {:?}", read.ignored)
            };
            assert!(line.contains(told), "{line} is not {told}");
        }
    }
}

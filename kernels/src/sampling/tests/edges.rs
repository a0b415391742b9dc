//! Numbers that are none, biases, and tokens that are given.

use super::*;

#[test]
fn logits_that_are_no_numbers_are_said_to_be() {
    let mut case = cases(&mut Random::new(1), 1).remove(0);
    case.bias.clear();
    for temperature in [0.0, 1.0] {
        case.params = Params {
            temperature,
            logprobs: Some(2),
            ..Params::default()
        };
        case.logits.fill(f32::NAN);
        assert!(!draw(std::slice::from_ref(&case), &[192], 0)[0].finite);
        case.logits[400] = 1.0;
        let sampled = draw(std::slice::from_ref(&case), &[192], 0).remove(0);
        assert_eq!((sampled.id, sampled.finite), (400, true));
    }
}

#[test]
fn zeros_of_both_signs_are_ties() {
    let mut case = cases(&mut Random::new(3), 1).remove(0);
    case.bias.clear();
    case.params = Params {
        logprobs: Some(1),
        ..Params::default()
    };
    case.logits.fill(-1.0);
    (case.logits[70], case.logits[200]) = (-0.0, 0.0);
    for cuts in [&[][..], &[128]] {
        let sampled = draw(std::slice::from_ref(&case), cuts, 0).remove(0);
        assert_eq!(sampled.id, 70, "cut at {cuts:?}");
        assert_eq!(sampled.logprobs.unwrap().top[0].0, 70, "cut at {cuts:?}");
    }
}

#[test]
fn an_infinite_logit_is_taken_whatever_the_temperature() {
    let mut case = cases(&mut Random::new(4), 1).remove(0);
    case.bias.clear();
    (case.logits[300], case.logits[400]) = (f32::INFINITY, f32::INFINITY);
    for temperature in [0.0, 1.0] {
        case.params = Params {
            temperature,
            top_p: 0.5,
            ..Params::default()
        };
        for cuts in [&[][..], &[320]] {
            let sampled = draw(std::slice::from_ref(&case), cuts, 0).remove(0);
            assert_eq!((sampled.id, sampled.finite), (300, true));
        }
    }
}

#[test]
fn a_bias_makes_certain_or_impossible_and_leaves_logprobs_alone() {
    let mut random = Random::new(17);
    for temperature in [0.0, 1.0] {
        let mut case = cases(&mut random, 1).remove(0);
        case.params = Params {
            temperature,
            logprobs: Some(3),
            ..Params::default()
        };
        let sum: f64 = case.logits.iter().map(|x| f64::from(*x).exp()).sum();
        let exact = |id: u32| f64::from(case.logits[id as usize]) - sum.ln();
        for id in [0, 63, 64, 300, 514] {
            let mut certain = case.clone();
            certain.bias = vec![(id, 100.0)];
            let forbidding = |other: u32| (other, f32::NEG_INFINITY);
            let mut alone = case.clone();
            alone.bias = (0..515)
                .filter(|other| *other != id)
                .map(forbidding)
                .collect();
            for cuts in [&[][..], &[64, 320]] {
                let drawn = draw(&[certain.clone(), alone.clone()], cuts, 3);
                for sampled in drawn {
                    assert_eq!(sampled.id, id);
                    let logprob = f64::from(sampled.logprobs.unwrap().logprob);
                    assert!(
                        (logprob - exact(id)).abs() < 1e-4,
                        "{logprob} {}",
                        exact(id)
                    );
                }
            }
        }
    }
}

#[test]
fn a_given_token_is_scored_as_the_model_finds_it() {
    let mut case = cases(&mut Random::new(18), 1).remove(0);
    case.bias.clear();
    case.params = Params {
        logprobs: Some(2),
        ..Params::default()
    };
    let sum: f64 = case.logits.iter().map(|x| f64::from(*x).exp()).sum();
    for id in [0, 63, 64, 300, 514] {
        case.target = Some(id);
        for cuts in [&[][..], &[64, 320]] {
            let sampled = draw(std::slice::from_ref(&case), cuts, 0).remove(0);
            assert_eq!((sampled.id, sampled.finite), (id, true));
            let logprobs = sampled.logprobs.unwrap();
            let exact = f64::from(case.logits[id as usize]) - sum.ln();
            assert!((f64::from(logprobs.logprob) - exact).abs() < 1e-4);
            assert_eq!(logprobs.top.len(), 2);
            assert!(logprobs.top[0].1 >= logprobs.logprob);
        }
    }
}

//! What two engines say to the same requests, to the bit, and what their weights take.

use plimsoll_planner::Account;
use plimsoll_sidecar::engine::handle::EngineHandle;

use super::{Answer, Answered, ask};

/// Tokens of each answer.
const TOKENS: u32 = 6;

/// Two requests side by side: one long enough for several rows at once.
pub fn answers(handle: &EngineHandle) -> [Answered; 2] {
    let long: Vec<u32> = (3..45).collect();
    let asked = [
        ask(handle, 1, &long, TOKENS),
        ask(handle, 2, &[7, 100, 9], TOKENS),
    ];
    asked.map(Answer::wait)
}

/// Of all logits, in order.
pub fn bits(answers: &[Answered]) -> Vec<u32> {
    let logits = answers.iter().flat_map(|of| of.logits.iter().flatten());
    logits.map(|logit| logit.to_bits()).collect()
}

pub fn assert_same(answers: &[Answered; 2], expected: &[Answered; 2], what: &str) {
    for (answer, expected) in answers.iter().zip(expected) {
        assert_eq!(answer.ids.len(), TOKENS as usize, "{what}");
        assert_eq!(answer.ids, expected.ids, "{what}");
    }
    assert!(bits(answers) == bits(expected), "{what}: other logits");
}

/// Bytes that are reserved for weights, on all ranks.
pub fn weights(handle: &EngineHandle) -> u64 {
    let ranks = handle.memory().ranks;
    let rows = ranks.iter().flat_map(|rank| &rank.accounts);
    rows.filter(|row| row.account == Account::Weights)
        .map(|row| row.reserved.get())
        .sum()
}

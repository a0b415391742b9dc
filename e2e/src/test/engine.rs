//! The engine on the real model, against reference tokens.

use crate::test::unit::run_tests;
use crate::test::world::World;
use crate::test::{Group, Passed, test};

pub(super) const GROUP: Group = Group {
    name: "engine",
    about: "the sidecar's engine on SmolLM2-135M, against reference tokens",
    tests: &[test(
        "the real model gives the reference tokens",
        real_model,
    )],
};

fn real_model(world: &World<'_>) -> Passed {
    let model = world.model()?;
    let model = model.to_string_lossy();
    // Optimised: a debug build would take minutes for each answer. Without link-time optimisation:
    // it costs a minute for each of ten test programs, and the shipped program has it, which the
    // `serve` group runs.
    let words = [
        "--release",
        "--config",
        "profile.release.lto=\"off\"",
        "--package",
        "plimsoll-sidecar",
        "--features",
        "real-model",
    ];
    run_tests(&words, &[("PLIMSOLL_SMOLLM2", &model)])
}

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
    // As the group `unit` has built them: kernels are optimised there, too, and the program that is
    // shipped serves this model in the group `serve`.
    let words = ["--workspace", "--test", "smollm2_*", "--", "--ignored"];
    run_tests(&words, &[("PLIMSOLL_SMOLLM2", &model)])
}

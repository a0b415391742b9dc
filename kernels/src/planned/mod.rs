//! For trials: what a plan of a card has, and launchers that get exactly that. Every buffer is memory that
//! ends where the plan's region ends, with poison behind it that must stay.
//!
//! A launcher is given what a batch of the largest size takes: with a number less of any buffer it refuses
//! the call, with all of them it does not. So a plan has as much as ops take, and no more.

mod cached;
mod draw;
mod layer;
mod place;
mod sampling;

use crate::gpu::trial::Trial;

pub(crate) fn all() -> Vec<Trial> {
    let mut trials = Vec::new();
    for seed in 0..24 {
        trials.push(Trial::new(
            "plan",
            format!("a layer's launchers stay inside of plan {seed}"),
            move |bench| layer::stays_inside(bench, seed),
        ));
        trials.push(Trial::new(
            "plan",
            format!("sampling stays inside of plan {seed}"),
            move |bench| sampling::stays_inside(bench, seed),
        ));
    }
    trials.push(Trial::new(
        "plan",
        "sampling on any card takes what a plan has, and on the largest all of it",
        sampling::takes_what_is_planned,
    ));
    trials
}

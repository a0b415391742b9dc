//! `plimsoll-operator`: gather, plan, build, apply, publish.
#![forbid(unsafe_code)]

mod args;
mod rolling;

fn main() {
    let _ = <args::Args as clap::Parser>::parse();
}

//! `plimsoll-operator`: gather, plan, build, apply, publish.
#![forbid(unsafe_code)]

mod args;

fn main() {
    let _ = <args::Args as clap::Parser>::parse();
}

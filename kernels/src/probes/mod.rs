//! probes: the primitives that kernels are made of (device.cuh, reduce.cuh), one kernel each, with
//! known answers. No op: tests alone launch it, on the emulator and on every card, so that the
//! emulator's answers are the cards'.

pub(crate) mod trials;

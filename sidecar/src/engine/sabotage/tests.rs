//! Tests of the proof of a wake, and of a resize, by faults that are planted.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use plimsoll_planner::{Account, Bytes, Plan, Request, kv_cache};

use crate::args::{Cli, Command};
use crate::config::{Planned, plan_flags};
use crate::engine::Engine;
use crate::engine::config::EngineConfig;
use crate::engine::control::{Commands, ControlError, Woken};
use crate::engine::handle::{EngineHandle, EngineState};
use crate::engine::request::{GenerateRequest, SamplingParams, TokenEvent};
use crate::engine::rest::{PauseMode, SleepLevel, Tags, Transition};
use crate::engine::size::Size;
use crate::http::testing::fixture;
use crate::model::{Model, ModelFolder};

use super::{Fault, Moment};

pub(super) const AWAKE: Result<Woken, ControlError> = Ok(Woken { asleep: false });

fn planned(model: &Model, flags: &str) -> (Request, Plan) {
    let line = "x plan m --max-num-seqs 2 --max-num-batched-tokens 32 \
        --kv-cache-size 1Mi --tensor-parallel-size 2";
    let line = format!("{line} {flags}");
    let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
        panic!("not a plan")
    };
    let Planned { request, plan } = plan_flags(&args.memory, model).unwrap();
    (request, plan)
}

/// The tiny model on two ranks, serving.
pub(crate) fn engine() -> EngineHandle {
    engine_with(|_| {})
}

/// The same, which begins with so many blocks of its KV cache.
pub(crate) fn engine_of(first_kv_blocks: Option<u32>) -> EngineHandle {
    engine_with(|config| config.first_kv_blocks = first_kv_blocks)
}

/// The same, whose weights and answers are proved by checksums alone.
pub(super) fn engine_without_probe() -> EngineHandle {
    engine_with(|config| config.probe = false)
}

fn engine_with(change: impl FnOnce(&mut EngineConfig)) -> EngineHandle {
    let handle = begun(ModelFolder::open(&fixture()).unwrap(), change);
    comes_to(&handle, |state| *state == EngineState::Serving);
    handle
}

/// An engine of such a model on two ranks, which loads.
pub(crate) fn begun(model: Model, change: impl FnOnce(&mut EngineConfig)) -> EngineHandle {
    begun_as(model, "", change)
}

/// The same, with more flags.
pub(crate) fn begun_as(
    model: Model,
    flags: &str,
    change: impl FnOnce(&mut EngineConfig),
) -> EngineHandle {
    let (request, plan) = planned(&model, flags);
    let mut config = EngineConfig {
        threads_per_rank: Some(1),
        ..EngineConfig::new(request)
    };
    change(&mut config);
    Engine::start(config, Arc::new(model), plan).unwrap()
}

/// Waits until the engine is in such a state, which is given back.
pub(crate) fn comes_to(
    handle: &EngineHandle,
    wanted: impl FnMut(&EngineState) -> bool,
) -> EngineState {
    let mut state = handle.subscribe();
    let mut waits = tokio::runtime::Builder::new_current_thread();
    let come = async {
        let come = state.wait_for(wanted);
        let come = tokio::time::timeout(Duration::from_secs(20), come).await;
        come.ok().and_then(|state| Some(state.ok()?.clone()))
    };
    let come = waits.enable_time().build().unwrap().block_on(come);
    come.unwrap_or_else(|| panic!("{:?} after 20 s", handle.state()))
}

pub(super) fn not_woken(handle: &EngineHandle) -> String {
    let Err(ControlError::NotWoken { message }) = handle.wake(Tags::ALL).wait() else {
        panic!("it woke: {:?}", handle.rest());
    };
    assert_eq!(handle.state(), EngineState::Asleep);
    assert_eq!(handle.rest().trouble, message);
    message
}

fn reserved(handle: &EngineHandle) -> u64 {
    let ranks = handle.memory().ranks;
    let rows = ranks.iter().flat_map(|rank| &rank.accounts);
    rows.filter(|row| row.account != Account::Weights)
        .map(|row| row.reserved.get())
        .sum()
}

#[test]
fn a_byte_that_flips_keeps_the_engine_out_of_service_until_it_is_whole_again() {
    let handle = engine();
    for (level, rank, tensor) in [
        (SleepLevel::One, 1, "GateUp { layer: 1 }"),
        (SleepLevel::One, 0, "rope_cos"),
        (SleepLevel::Two, 0, "Output { layer: 0 }"),
    ] {
        handle.sabotage().plan(Fault {
            rank,
            moment: Moment::Restored,
            tensor: Some(tensor),
        });
        assert_eq!(handle.sleep(level, PauseMode::Abort).wait(), Ok(()));
        let message = not_woken(&handle);
        assert!(message.contains(&format!("rank {rank}")), "{message}");
        assert!(message.contains(tensor), "{message}");
        assert_eq!(handle.rest().weights_verified, Some(false));
        // What level 2 read is let go of, and read anew by the next wake.
        if level == SleepLevel::One {
            // Proved again, and still wrong.
            assert_eq!(not_woken(&handle), message);
            let slept = handle.sleep(SleepLevel::Two, PauseMode::Abort).wait();
            assert_eq!(slept, Ok(()));
        }
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE, "after {tensor}");
        assert_eq!(handle.rest().weights_verified, Some(true));
    }
}

/// New weights are no cure, and a broken table is never the measure of what follows.
#[test]
fn a_broken_table_is_not_served_with_other_weights_either() {
    let handle = engine();
    handle.sabotage().plan(Fault {
        rank: 0,
        moment: Moment::Restored,
        tensor: Some("rope_cos"),
    });
    let slept = handle.sleep(SleepLevel::One, PauseMode::Keep).wait();
    assert_eq!(slept, Ok(()));
    not_woken(&handle);
    let update = || {
        let weights = Arc::new(handle.open_weights(&handle.weights().path).unwrap());
        handle.update(weights, None, PauseMode::Keep).wait()
    };
    let Err(ControlError::NotUpdated { message }) = update() else {
        panic!("it took them: {:?}", handle.rest());
    };
    assert!(message.contains("rank 0: rope_cos"), "{message}");
    assert_eq!(handle.state(), EngineState::Asleep);
    let slept = handle.sleep(SleepLevel::One, PauseMode::Keep).wait();
    assert_eq!(slept, Ok(()));
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    assert!(update().is_ok());
    let slept = handle.sleep(SleepLevel::Two, PauseMode::Keep).wait();
    assert_eq!(slept, Ok(()));
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
}

#[test]
fn what_checksums_do_not_see_the_probe_does() {
    let handle = engine();
    handle.sabotage().plan(Fault {
        rank: 0,
        moment: Moment::Step,
        tensor: Some("InputNorm { layer: 0 }"),
    });
    assert_eq!(
        handle.sleep(SleepLevel::One, PauseMode::Keep).wait(),
        Ok(())
    );
    let message = not_woken(&handle);
    assert!(message.contains("probe"), "{message}");
    assert_eq!(
        handle.sleep(SleepLevel::Two, PauseMode::Keep).wait(),
        Ok(())
    );
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
}

/// The plan with other blocks of the cache; as many bytes of it as there are.
pub(crate) fn size(handle: &EngineHandle, less: u32) -> Arc<Size> {
    let model = ModelFolder::open(&fixture()).unwrap();
    let (request, mut plan) = planned(&model, "");
    plan.kv_blocks -= less;
    plan.kv_tokens -= u64::from(less * request.kv.block_size);
    for rank in &mut plan.ranks {
        let block = kv_cache::block_bytes(&model.shape, &rank.shard, &request.kv);
        let rows = rank.accounts.iter_mut();
        let bytes = block.saturating_mul(plan.kv_blocks.into());
        let bytes = bytes.round_up(Bytes::measured(4096));
        rows.filter(|row| row.0 == Account::KvCache)
            .for_each(|row| row.1 = bytes);
    }
    assert!(u64::from(handle.facts().max_model_len) <= plan.kv_tokens);
    Arc::new(Size {
        plan,
        capacities: request.ranks,
    })
}

pub(crate) fn ask(
    handle: &EngineHandle,
    id: u64,
    prompt: Vec<u32>,
) -> tokio::sync::mpsc::Receiver<TokenEvent> {
    let (events, received) = tokio::sync::mpsc::channel(400);
    let request = GenerateRequest {
        id,
        prompt,
        sampling: SamplingParams::default(),
        eos: vec![],
        min_tokens: 0,
        bias: vec![],
        prompt_logprobs: None,
        max_tokens: 200,
        adapter: None,
        cache_salt: None,
        events: events.into(),
    };
    handle.submit(request).unwrap();
    received
}

pub(crate) fn ids(mut events: tokio::sync::mpsc::Receiver<TokenEvent>) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some(event) = events.blocking_recv() {
        if let TokenEvent::Token { id, .. } = event {
            ids.push(id);
        }
    }
    ids
}

/// A held block that is not copied is told by who reads it.
#[test]
fn a_block_that_does_not_move_changes_an_answer() {
    let answers = |fault: Option<Fault>| {
        let handle = engine();
        // The first takes the first blocks and gives them up: the second's lie behind them.
        let (first, second) = (ask(&handle, 1, vec![7; 450]), ask(&handle, 2, vec![9; 40]));
        while second.len() < 60 {
            std::thread::yield_now();
        }
        handle.cancel(1);
        drop(ids(first));
        assert_eq!(handle.pause(PauseMode::Keep, false).wait(), Ok(()));
        fault.into_iter().for_each(|it| handle.sabotage().plan(it));
        let used = handle.memory().kv.blocks_used;
        let total = handle.memory().kv.blocks_total;
        let least = handle.facts().max_model_len.div_ceil(16).max(used);
        let resized = handle.resize(size(&handle, total - least)).wait().unwrap();
        assert_eq!(handle.resume().wait(), Ok(()));
        (resized.moved, ids(second))
    };
    let expected = ids(ask(&engine(), 2, vec![9; 40]));
    let (moved, whole) = answers(None);
    assert!(moved > 0, "nothing had to move");
    assert_eq!(whole, expected);
    let (_, broken) = answers(Some(Fault {
        rank: 1,
        moment: Moment::Move,
        tensor: None,
    }));
    assert_ne!(broken, expected);
}

#[test]
fn a_growth_that_one_rank_cannot_follow_leaves_all_ranks_as_they_were() {
    let handle = engine();
    let expected = ids(ask(&handle, 1, vec![5; 40]));
    let full = handle.memory();
    handle.resize(size(&handle, 2)).wait().unwrap();
    let small = handle.memory();
    assert!(small.ranks[0].driver < full.ranks[0].driver);
    handle.sabotage().plan(Fault {
        rank: 1,
        moment: Moment::Growth,
        tensor: None,
    });
    let refused = handle.resize(size(&handle, 0)).wait().unwrap_err();
    let ControlError::NotResized { message } = refused else {
        panic!("{refused}");
    };
    assert_eq!(message, "rank 1: the memory is taken by somebody else");
    let now = handle.memory();
    for (now, small) in now.ranks.iter().zip(&small.ranks) {
        assert_eq!((now.driver, now.other), (small.driver, 0));
        let held = |of: &crate::memory::snapshot::RankLedger| -> Vec<(Bytes, Bytes)> {
            let rows = of.accounts.iter();
            rows.map(|row| (row.planned, row.reserved)).collect()
        };
        assert_eq!(held(now), held(small));
    }
    assert_eq!(now.kv.blocks_total, small.kv.blocks_total);
    assert_eq!(handle.state(), EngineState::Serving);
    assert_eq!(ids(ask(&handle, 2, vec![5; 40])), expected);
    handle.resize(size(&handle, 0)).wait().unwrap();
    assert_eq!(handle.memory().ranks[1].driver, full.ranks[1].driver);
    let counts = handle.stats().transitions[Transition::Resize as usize];
    assert_eq!((counts.done, counts.failed), (2, 1));
}

#[test]
fn memory_that_is_taken_by_somebody_else_leaves_all_ranks_as_they_slept() {
    let handle = engine();
    assert_eq!(
        handle.sleep(SleepLevel::One, PauseMode::Keep).wait(),
        Ok(())
    );
    handle.sabotage().plan(Fault {
        rank: 1,
        moment: Moment::Restored,
        tensor: None,
    });
    let message = not_woken(&handle);
    assert!(message.contains("rank 1: the memory is taken"), "{message}");
    assert_eq!(reserved(&handle), 0, "rank 0 gave back what it took");
    assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
}

//! A plan as a table: what `plimsoll-sidecar plan` prints, in the words that status uses.

use crate::account::Account;
use crate::blocks::{BlockFormat, LayerBlocks};
use crate::bytes::Bytes;
use crate::offload::{self, Offload};
use crate::plan::{Plan, RankPlan};
use crate::request::Request;
use crate::stored::{BlockCompute, Integers};

/// Renders `plan`: one row per rank and one for all, a column per account that any rank has.
/// `STEP` is the rank's part of the bytes that all ranks read in a decode step; the rank with the
/// largest sets the pace. Lines end with a newline; the line after the rows names tokens and context,
/// and one more what is streamed, where anything is.
pub fn table(request: &Request, plan: &Plan) -> String {
    let has = |account: &Account| {
        plan.ranks
            .iter()
            .any(|rank| rank.bytes(*account) > Bytes::ZERO)
    };
    let accounts: Vec<Account> = Account::ALL.into_iter().filter(has).collect();
    let mut rows = vec![head(&accounts)];
    let steps = plan.step_bytes(request);
    let all_steps: Bytes = steps.iter().copied().sum();
    for (rank, step) in plan.ranks.iter().zip(&steps) {
        rows.push(row(rank, &accounts, percent(*step, all_steps)));
    }
    rows.push(sums(plan, &accounts));
    let mut text = align(&rows);
    let context = match request.limits.max_model_len {
        Some(_) => "as asked for",
        None if plan.max_model_len < request.shape.context => "shrunk to the KV cache",
        None => "the model's own",
    };
    text.push_str(&format!(
        "KV cache: {} tokens in {} blocks of {} ({}); maxModelLen {} ({context}); weights {}\n",
        plan.kv_tokens,
        plan.kv_blocks.saturating_sub(1),
        request.kv.block_size,
        request.kv.dtype,
        plan.max_model_len,
        weights(request),
    ));
    text.push_str(&streams(request, plan));
    text
}

/// The types that weights have in memory: `BFloat16`, or `Q4_1, Q8_0, computed in BFloat16` and by what
/// integers instead, a matrix that is in no blocks with its float type among them; and how many the ranks
/// share that are out of order.
pub fn weights(request: &Request) -> String {
    let all = request.kept().all(request.shape.layers);
    let mut names: Vec<String> = all.formats().iter().map(BlockFormat::to_string).collect();
    if names.is_empty() {
        return request.dtype.to_string();
    }
    let head = all.head.is_none() && !request.shape.tied;
    let is_float = |of: &LayerBlocks| of.all().iter().any(Option::is_none);
    let floats = all.layers.is_empty() || all.layers.iter().any(is_float);
    if floats || head || all.embedding.is_none() {
        names.push(request.dtype.to_string());
    }
    let expanded = match request.listed_and_cut() {
        0 => String::new(),
        count => format!("; {count} of o and down expanded: act order is not cut over ranks"),
    };
    format!("{}, {}{expanded}", names.join(", "), products(request))
}

/// How weights in blocks are multiplied.
fn products(request: &Request) -> String {
    let exact = format!("computed in {}", request.dtype);
    match (request.compute, request.input_form().integers) {
        (_, None) => exact,
        (BlockCompute::Auto, Some(_)) => {
            format!("{exact}, or by 16-bit integers where the machine is faster so")
        }
        (_, Some(Integers::Int8)) => "multiplied by 8-bit integers".to_owned(),
        (_, Some(Integers::Int16)) => "multiplied by 16-bit integers".to_owned(),
    }
}

/// What each rank streams in a step, and how long that takes at most.
fn streams(request: &Request, plan: &Plan) -> String {
    let offload = plan.offload(request);
    if offload.iter().all(|rank| rank.layers == 0) {
        return String::new();
    }
    let rank = |(rank, offload): (usize, &Offload)| {
        format!(
            "rank {rank}: {} of {} layers, {}, at most {:.1} ms",
            offload.layers,
            offload.of,
            offload.bytes(),
            offload.time(request.backend).as_secs_f64() * 1e3
        )
    };
    let ranks: Vec<String> = offload.iter().enumerate().map(rank).collect();
    let rate = offload::bytes_per_second(request.backend) / 1_000_000_000;
    format!("streamed in a step, at {rate} GB/s: {}\n", ranks.join("; "))
}

fn head(accounts: &[Account]) -> Vec<String> {
    let first = [
        "RANK",
        "BUDGET",
        "KV-HEADS",
        "QUERY-HEADS",
        "MLP-COLUMNS",
        "VOCAB-ROWS",
    ];
    let names = accounts.iter().map(|account| account.name().to_uppercase());
    let last = ["TOTAL", "FREE", "STEP"];
    first
        .map(str::to_owned)
        .into_iter()
        .chain(names)
        .chain(last.map(str::to_owned))
        .collect()
}

fn row(rank: &RankPlan, accounts: &[Account], step: String) -> Vec<String> {
    let shard = &rank.shard;
    let mut row = vec![rank.rank.to_string(), rank.budget.to_string()];
    let shares = [
        shard.kv_head_count(),
        shard.query_head_count(),
        shard.mlp_column_count(),
        shard.vocab_row_count(),
    ];
    row.extend(shares.map(|count| count.to_string()));
    row.extend(
        accounts
            .iter()
            .map(|account| rank.bytes(*account).to_string()),
    );
    row.push(rank.total().to_string());
    row.push(rank.budget.saturating_sub(rank.total()).to_string());
    row.push(step);
    row
}

fn sums(plan: &Plan, accounts: &[Account]) -> Vec<String> {
    let count = |of: fn(&RankPlan) -> u32| plan.ranks.iter().map(of).sum::<u32>().to_string();
    let bytes = |of: &dyn Fn(&RankPlan) -> Bytes| plan.ranks.iter().map(of).sum::<Bytes>();
    let budget = bytes(&|rank| rank.budget);
    let total = bytes(&RankPlan::total);
    let mut row = vec!["all".to_owned(), budget.to_string()];
    row.push(count(|rank| rank.shard.kv_head_count()));
    row.push(count(|rank| rank.shard.query_head_count()));
    row.push(count(|rank| rank.shard.mlp_column_count()));
    row.push(count(|rank| rank.shard.vocab_row_count()));
    row.extend(
        accounts
            .iter()
            .map(|account| bytes(&|rank| rank.bytes(*account)).to_string()),
    );
    row.extend([
        total.to_string(),
        budget.saturating_sub(total).to_string(),
        "100%".to_owned(),
    ]);
    row
}

fn percent(part: Bytes, whole: Bytes) -> String {
    let percent = u128::from(part.get()) * 100 + u128::from(whole.get()) / 2;
    format!("{}%", percent / u128::from(whole.get().max(1)))
}

/// Columns right-aligned, two blanks between them.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:>width$}"));
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}

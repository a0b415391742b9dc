//! What becomes of a container's memory on the CPU: budgets of ranks, the host's reserve, and back.

mod samples;

use plimsoll_planner::{
    Account, Bytes, Reason, Request, cpu_capacity, cpu_memory_limit, host_reserve, plan,
};
use samples::{MIB, on_cpu};

#[test]
fn ranks_without_quota_share_what_limit_reserve_and_quotas_leave() {
    let request = on_cpu(&[Some(300 * MIB), None, None]);
    let reserve = host_reserve(&request, Bytes::measured(1300 * MIB))
        .total()
        .get();
    let ranks = cpu_capacity(&request, Some(Bytes::measured(reserve + 1300 * MIB))).unwrap();
    assert_eq!(ranks[0], request.ranks[0]);
    for rank in &ranks[1..] {
        assert_eq!(rank.total, Some(Bytes::measured(500 * MIB)));
    }
    let request = Request { ranks, ..request };
    assert_eq!(request.budget(1).unwrap().bytes, Bytes::measured(450 * MIB));
}

#[test]
fn a_limit_below_quotas_and_reserve_is_refused_with_the_numbers() {
    let request = on_cpu(&[Some(300 * MIB), Some(700 * MIB)]);
    let reserve = host_reserve(&request, Bytes::measured(1000 * MIB))
        .total()
        .get();
    let refusal = cpu_capacity(&request, Some(Bytes::measured(1000 * MIB))).unwrap_err();
    let message = refusal.message();
    assert!(message.contains("memory limit: 1000.00 MiB"), "{message}");
    assert!(
        message.contains(&Bytes::measured(reserve).to_string()),
        "{message}"
    );
    let exact = cpu_capacity(&request, Some(Bytes::measured(1000 * MIB + reserve))).unwrap();
    assert_eq!(exact, request.ranks);
    assert_eq!(
        cpu_memory_limit(&request),
        Some(Bytes::measured(1000 * MIB + reserve))
    );
}

/// 64 GiB of ranks need 128 MiB of page tables alone.
#[test]
fn the_reserve_grows_with_the_budgets_and_the_context() {
    let request = on_cpu(&[None, None]);
    let part = |gib: u64| host_reserve(&request, Bytes::measured(gib << 30));
    assert_eq!(part(64).page_tables, Bytes::measured(128 * MIB));
    assert_eq!(part(1).page_tables, Bytes::measured(2 * MIB));
    // 16 tokens x 30 layers x 3 heads x 64 x 2 x 2 bytes are 360 KiB of every rank's sum.
    assert_eq!(
        part(64).blocks,
        Bytes::measured((64 << 30) / (360 << 10) * 128)
    );
    let mut long = request.clone();
    long.shape.context = 131_072;
    let serving = |request: &Request| host_reserve(request, Bytes::measured(64 << 30));
    assert!(serving(&long).work > serving(&request).work);
    // Those that wait and run grow with the context, what is in a step with the cache.
    assert!(serving(&long).sequences.get() >= 7 * serving(&request).sequences.get());
    long.limits.max_model_len = Some(8192);
    assert_eq!(
        serving(&long),
        serving(&request),
        "what is asked for counts"
    );
}

/// Whatever the limit, ranks and host have it together, and nobody could have a page more.
#[test]
fn budgets_and_their_reserve_fill_the_limit() {
    for mib in (600..40_000).step_by(1_237) {
        let request = on_cpu(&[None, None, None]);
        let limit = Bytes::measured(mib * MIB);
        let ranks = cpu_capacity(&request, Some(limit)).unwrap();
        let parts: Bytes = ranks.iter().filter_map(|rank| rank.total).sum();
        let all = parts + host_reserve(&request, parts).total();
        assert!(all <= limit, "{mib} MiB: {all}");
        assert!(
            limit.saturating_sub(all) < Bytes::measured(4096),
            "{mib} MiB: {all}"
        );
    }
}

#[test]
fn without_limit_and_quotas_the_kv_cache_takes_at_most_4_gib() {
    for ranks in 1..=4 {
        let request = on_cpu(&vec![None; ranks]);
        assert_eq!(cpu_memory_limit(&request), None);
        let ranks = cpu_capacity(&request, None).unwrap();
        let request = Request { ranks, ..request };
        let plan = plan(&request).unwrap();
        let kv: u64 = plan
            .ranks
            .iter()
            .map(|rank| rank.bytes(Account::KvCache).get())
            .sum();
        assert!((4040 * MIB..=4096 * MIB).contains(&kv), "{} MiB", kv / MIB);
        assert_eq!(plan.max_model_len, 8192);
    }
}

#[test]
fn a_written_size_of_the_kv_cache_is_not_cut_to_the_4_gib_of_none() {
    for (ranks, size) in [(1, 6 << 10), (2, 3 << 10), (2, 5 << 10), (3, 1 << 10)] {
        let mut request = on_cpu(&vec![None; ranks]);
        request.kv.size = Some(Bytes::measured(size * MIB));
        request.ranks = cpu_capacity(&request, None).unwrap();
        let plan = plan(&request).unwrap();
        let mut most = 0;
        for rank in &plan.ranks {
            let kv = rank.bytes(Account::KvCache).get();
            assert!(kv <= size * MIB, "{ranks} {size}: {} MiB", kv / MIB);
            most = most.max(kv);
        }
        // A block less, at most.
        assert!(
            most > (size - 64) * MIB,
            "{ranks} {size}: {} MiB",
            most / MIB
        );
    }
}

#[test]
fn without_limit_and_quotas_the_kv_cache_takes_no_more_than_is_wanted() {
    let mut request = on_cpu(&[None, None]);
    request.limits.max_num_seqs = 2;
    request.limits.max_model_len = Some(512);
    request.ranks = cpu_capacity(&request, None).unwrap();
    let plan = plan(&request).unwrap();
    assert_eq!(plan.kv_tokens, 1024);
}

#[test]
fn a_context_that_needs_more_is_refused_with_a_shorter_one() {
    let mut request = on_cpu(&[None]);
    request.shape.context = 1 << 20;
    request.limits.max_model_len = Some(1 << 20);
    request.ranks = cpu_capacity(&request, None).unwrap();
    let refusal = plan(&request).unwrap_err();
    assert_eq!(refusal.reason, Reason::ContextTooLong);
    assert!(plan(&refusal.remedies[0].apply(&request)).is_ok());
}

#[test]
fn ranks_of_longer_heads_have_larger_stacks() {
    let mut request = on_cpu(&[None, None]);
    let mut of = |head_dim| {
        request.shape.head_dim = head_dim;
        host_reserve(&request, Bytes::measured(1 << 30)).ranks.get() / MIB
    };
    assert_eq!(
        [of(16), of(64), of(96), of(128), of(256)],
        [16, 16, 24, 24, 40]
    );
}

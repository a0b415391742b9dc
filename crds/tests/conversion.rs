//! Specs and facts become the planner's requests; plans become JSON and come back.
#![expect(
    clippy::unwrap_used,
    reason = "a test may end at what it did not expect"
)]

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use plimsoll_crds::v1alpha1::convert::{self, ConvertError};
use plimsoll_crds::v1alpha1::engine::PlanStatus;
use plimsoll_crds::v1alpha1::facts::{Architecture, Dtype, ModelFacts, ModelFormat};
use plimsoll_crds::v1alpha1::kv_cache::{KvDtype, KvDtypeChoice};
use plimsoll_crds::v1alpha1::model::DtypeChoice;
use plimsoll_crds::v1alpha1::quantity::{self, QuantityError};
use plimsoll_crds::v1alpha1::spec::{GpuQuota, InferenceDeploymentSpec};
use plimsoll_planner::{Account, Bytes, Plan, RankPlan, Shard};
use proptest::prelude::*;

fn facts() -> ModelFacts {
    ModelFacts {
        architecture: Architecture::Llama,
        format: ModelFormat::Gguf,
        layers: 30,
        hidden_size: 576,
        query_heads: 9,
        kv_heads: 3,
        head_dim: 64,
        intermediate_size: 1536,
        vocabulary_size: 49_152,
        tied: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        context_length: 8192,
        file_dtype: "Q4_1".to_owned(),
        default_dtype: Dtype::BFloat16,
        quantization: Some("GGUF Q4_1".to_owned()),
        blocks: None,
        weight_file_bytes: 98_000_000,
        parameters: 134_515_008,
        digest: "sha256:0".to_owned(),
        notes: Vec::new(),
        adapters: Vec::new(),
    }
}

fn spec(ranks: u32, quotas: &[(u32, &str)]) -> InferenceDeploymentSpec {
    let mut spec: InferenceDeploymentSpec =
        serde_json::from_value(serde_json::json!({"model": {"source": {}}})).unwrap();
    spec.parallelism.tensor_parallel_size = ranks;
    spec.memory.gpu_quotas = quotas
        .iter()
        .map(|(rank, limit)| GpuQuota {
            rank: *rank,
            limit: Quantity((*limit).to_owned()),
        })
        .collect();
    spec
}

#[test]
fn spec_without_words_asks_for_the_documented_defaults() {
    let request = convert::request(&spec(1, &[]), &facts()).unwrap();
    assert_eq!(request.dtype, plimsoll_planner::Dtype::BFloat16);
    assert_eq!(request.kv.dtype, plimsoll_planner::KvDtype::BFloat16);
    assert_eq!(request.kv.block_size, 16);
    assert_eq!(request.utilization.0, 900);
    assert_eq!(request.limits.max_num_seqs, 64);
    assert_eq!(request.limits.max_num_batched_tokens, 2048);
    assert_eq!(request.limits.max_model_len, None);
    assert_eq!((request.ranks.len(), request.ranks[0].quota), (1, None));
}

#[test]
fn cache_follows_the_weights_unless_it_is_told() {
    let mut spec = spec(1, &[]);
    spec.model.dtype = DtypeChoice::Float32;
    let request = convert::request(&spec, &facts()).unwrap();
    assert_eq!(request.kv.dtype, plimsoll_planner::KvDtype::Float32);
    for (choice, dtype) in [
        (KvDtypeChoice::Float32, plimsoll_planner::KvDtype::Float32),
        (KvDtypeChoice::BFloat16, plimsoll_planner::KvDtype::BFloat16),
        (KvDtypeChoice::Float16, plimsoll_planner::KvDtype::Float16),
        (KvDtypeChoice::Int8, plimsoll_planner::KvDtype::Int8),
    ] {
        spec.memory.kv_cache.dtype = choice;
        let request = convert::request(&spec, &facts()).unwrap();
        assert_eq!(request.dtype, plimsoll_planner::Dtype::Float32);
        assert_eq!(request.kv.dtype, dtype);
        assert_eq!(plimsoll_planner::KvDtype::from(KvDtype::from(dtype)), dtype);
    }
}

#[test]
fn quota_rows_are_put_in_order_of_rank() {
    let request = convert::request(&spec(2, &[(1, "700Mi"), (0, "300Mi")]), &facts()).unwrap();
    let quotas: Vec<u64> = request
        .ranks
        .iter()
        .map(|rank| rank.quota.unwrap().get())
        .collect();
    assert_eq!(quotas, [300 << 20, 700 << 20]);
}

#[test]
fn spec_that_passed_no_api_server_is_refused_all_the_same() {
    let refused = |spec: &InferenceDeploymentSpec| convert::request(spec, &facts()).unwrap_err();
    let rows = refused(&spec(2, &[(0, "1Gi")]));
    assert_eq!(rows, ConvertError::QuotaRows { rows: 1, ranks: 2 });
    assert_eq!(
        rows.to_string(),
        "spec.memory.gpuQuotas: 1 rows for spec.parallelism.tensorParallelSize 2; write one row \
         per rank (0 to 1), or none"
    );
    assert!(matches!(
        refused(&spec(2, &[(0, "1Gi"), (0, "1Gi")])),
        ConvertError::QuotaRows { .. }
    ));
    assert!(matches!(
        refused(&spec(0, &[])),
        ConvertError::OutOfRange { .. }
    ));
    assert!(matches!(
        refused(&spec(17, &[])),
        ConvertError::OutOfRange { .. }
    ));
    let quantity = refused(&spec(1, &[(0, "-1Gi")])).to_string();
    assert_eq!(
        quantity,
        "spec.memory.gpuQuotas[rank 0].limit: -1Gi is not more than zero; write e.g. 700Mi"
    );
    for share in [0.0, 0.049, 1.001, 1.5, -0.9, f64::NAN, f64::INFINITY] {
        let mut spec = spec(1, &[]);
        spec.memory.gpu_memory_utilization = share;
        assert!(
            matches!(refused(&spec), ConvertError::OutOfRange { .. }),
            "{share}"
        );
    }
}

#[test]
fn facts_that_make_no_sense_are_refused() {
    let change: [fn(&mut ModelFacts); 4] = [
        |facts| facts.kv_heads = 0,
        |facts| facts.kv_heads = 2,
        |facts| facts.layers = u32::MAX,
        |facts| facts.vocabulary_size = 0,
    ];
    for change in change {
        let mut facts = facts();
        change(&mut facts);
        assert!(
            matches!(convert::model_shape(&facts), Err(ConvertError::Facts(_))),
            "{facts:?}"
        );
    }
}

#[test]
fn quantities_are_exact() {
    for (text, bytes) in [
        ("1", 1),
        ("1048576", 1 << 20),
        ("+5", 5),
        ("1k", 1000),
        ("1Ki", 1024),
        ("300Mi", 300 << 20),
        ("1.5Gi", 3 << 29),
        ("10G", 10_000_000_000),
        (".5Gi", 1 << 29),
        ("2.", 2),
        ("0.1Gi", 107_374_182), // 107,374,182.4: a bound is never exceeded
        ("2e9", 2_000_000_000),
        ("1.5E3", 1500),
        ("5e-1Ki", 0), // no quantity
        ("1500m", 1),
        ("4000000000n", 4),
        ("0.5Ti", 1 << 39),
        ("7E", 7_000_000_000_000_000_000),
        ("00000000000000000000000000000012", 12),
        ("9223372036854775807", i64::MAX as u64),
    ] {
        let expected = (bytes > 0).then_some(Bytes::measured(bytes));
        assert_eq!(quantity::bytes(text).ok(), expected, "{text}");
    }
}

#[test]
fn quantities_of_one_thing_compare_whatever_their_units() {
    let billionths = |text| quantity::billionths(text).unwrap();
    for (less, more) in [
        ("0", "1n"),
        ("999m", "1"),
        ("0.5", "501m"),
        ("1000Mi", "1Gi"),
        ("1Gi", "1073741825"),
    ] {
        assert!(billionths(less) < billionths(more), "{less} < {more}");
    }
    assert_eq!(billionths("0.5"), billionths("500m"));
    assert_eq!(billionths("-0"), 0);
    assert_eq!(billionths("8Ei"), (1 << 63) * 1_000_000_000);
    assert!(matches!(
        quantity::billionths("-1m"),
        Err(QuantityError::NotPositive(_))
    ));
    assert!(matches!(
        quantity::billionths("1e30"),
        Err(QuantityError::TooLarge(_))
    ));
}

#[test]
fn what_is_no_count_of_bytes_is_refused() {
    let long = "1".repeat(65);
    for text in [
        "",
        "Mi",
        "-",
        "+",
        ".",
        "1.2.3",
        "300MB",
        "300 Mi",
        " 1",
        "1 ",
        "1mi",
        "1KI",
        "1ki",
        "0x10",
        "1e",
        "1e1.5",
        "1e31",
        "1e+-1",
        "--1",
        "+-1",
        "١",
        "1_000",
        "NaN",
        "inf",
        long.as_str(),
    ] {
        let refused = quantity::bytes(text);
        assert!(
            matches!(refused, Err(QuantityError::Malformed(_))),
            "{text}: {refused:?}"
        );
    }
    for text in [
        "0", "-1", "-300Mi", "0Gi", "0.0", "1m", "999m", "1n", "0.9", "1e-9", "1e-30",
    ] {
        let refused = quantity::bytes(text);
        assert!(
            matches!(refused, Err(QuantityError::NotPositive(_))),
            "{text}: {refused:?}"
        );
    }
    for text in [
        "8Ei",
        "9223372036854775808",
        "1e30",
        "100E",
        &"9".repeat(64),
    ] {
        let refused = quantity::bytes(text);
        assert!(
            matches!(refused, Err(QuantityError::TooLarge(_))),
            "{text}: {refused:?}"
        );
    }
}

fn shard() -> impl Strategy<Value = Shard> {
    let range = || (0u32..1000, 0u32..1000).prop_map(|(start, count)| start..start + count);
    (range(), range(), range(), range()).prop_map(
        |(kv_heads, query_heads, mlp_columns, vocab_rows)| Shard {
            kv_heads,
            query_heads,
            mlp_columns,
            vocab_rows,
        },
    )
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let amounts = prop::collection::vec(0u64..1 << 50, Account::ALL.len());
    let rank = (shard(), 0u64..1 << 50, amounts);
    let ranks = prop::collection::vec(rank, 1..=16);
    (ranks, any::<u32>(), 0u64..1 << 50, any::<u32>()).prop_map(
        |(ranks, kv_blocks, kv_tokens, max_model_len)| Plan {
            ranks: (0u32..)
                .zip(ranks)
                .map(|(rank, (shard, budget, amounts))| RankPlan {
                    rank,
                    shard,
                    budget: Bytes::measured(budget),
                    accounts: Account::ALL
                        .into_iter()
                        .zip(amounts.into_iter().map(Bytes::measured))
                        .filter(|(_, bytes)| *bytes > Bytes::ZERO)
                        .collect(),
                })
                .collect(),
            kv_blocks,
            kv_tokens,
            max_model_len,
        },
    )
}

proptest! {
    #[test]
    fn plans_come_back_as_they_went(plan in any_plan()) {
        let json = serde_json::to_string(&convert::plan_status(&plan)).unwrap();
        let status: PlanStatus = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(convert::plan(&status).unwrap(), plan);
    }

    #[test]
    fn any_text_is_a_quantity_or_an_error(text in "\\PC{0,40}") {
        let _ = quantity::bytes(&text);
        let _ = quantity::billionths(&text);
    }

    #[test]
    fn whole_numbers_with_units_are_exact(count in 1u64..1 << 22, unit in 0usize..4) {
        let (suffix, bytes) = [("", 1), ("Ki", 1 << 10), ("Mi", 1 << 20), ("G", 1_000_000_000)][unit];
        let parsed = quantity::bytes(&format!("{count}{suffix}")).unwrap();
        prop_assert_eq!(parsed.get(), count * bytes);
    }

    #[test]
    fn decimals_are_rounded_down(thousandths in 1u64..10_000_000) {
        let text = format!("{}.{:03}Mi", thousandths / 1000, thousandths % 1000);
        let exact = u128::from(thousandths) * (1 << 20) / 1000;
        prop_assert_eq!(u128::from(quantity::bytes(&text).unwrap().get()), exact);
    }
}

#[test]
fn plan_that_makes_no_sense_is_refused() {
    let plan = Plan {
        ranks: vec![RankPlan {
            rank: 0,
            shard: Shard {
                kv_heads: 0..1,
                query_heads: 0..1,
                mlp_columns: 0..1,
                vocab_rows: 0..1,
            },
            budget: Bytes::measured(10),
            accounts: vec![(Account::Weights, Bytes::measured(5))],
        }],
        kv_blocks: 2,
        kv_tokens: 16,
        max_model_len: 16,
    };
    let good = convert::plan_status(&plan);
    let change: [fn(&mut PlanStatus); 3] = [
        |status| status.ranks[0].accounts[0].name = "Rent".to_owned(),
        |status| status.ranks[0].mlp_columns.start = 9,
        |status| status.ranks[0].rank = 1,
    ];
    for change in change {
        let mut status = good.clone();
        change(&mut status);
        assert!(
            matches!(convert::plan(&status), Err(ConvertError::Plan(_))),
            "{status:?}"
        );
    }
}

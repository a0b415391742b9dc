//! Adapters that requests choose: vLLM's series of who runs and who waits, and the bytes of each.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::GaugeVec;

use super::Maker;
use crate::engine::dynamic::AdaptersInSlots;
use crate::engine::stats::EngineStats;

#[derive(Debug)]
pub(super) struct Lora {
    requests: GaugeVec,
    bytes: GaugeVec,
}

impl Lora {
    pub(super) fn new(maker: &mut Maker) -> Lora {
        let help = "Running stats on LoRA requests.";
        let opts = maker.vllm("lora_requests_info", help);
        let labels = ["max_lora", "waiting_lora_adapters", "running_lora_adapters"];
        let requests = maker.add(GaugeVec::new(opts, &labels));
        let opts = maker.plimsoll(
            "adapter_bytes",
            "Bytes of an adapter beside the weights, on all ranks together.",
        );
        Lora {
            requests,
            bytes: maker.add(GaugeVec::new(opts, &["adapter"])),
        }
    }

    /// One series, whose value is the time that it is of; none of an engine without slots.
    pub(super) fn set(&self, stats: &EngineStats, dynamic: &AdaptersInSlots) {
        self.requests.reset();
        self.bytes.reset();
        if dynamic.room.slots == 0 {
            return;
        }
        // As vLLM has them: names, joined by commas.
        let names = |which: usize| -> String {
            let asked = |slot: u32| stats.adapted.get(slot as usize).map_or(0, |of| of[which]);
            let adapters = dynamic.adapters.iter().filter(|of| asked(of.slot) > 0);
            let names: Vec<&str> = adapters.map(|of| of.name.as_str()).collect();
            names.join(",")
        };
        let (running, waiting) = (names(0), names(1));
        let slots = dynamic.room.slots.to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.requests
            .with_label_values(&[slots.as_str(), waiting.as_str(), running.as_str()])
            .set(now.unwrap_or_default().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        let bytes = dynamic.slot_bytes.get() as f64;
        for of in &dynamic.adapters {
            self.bytes.with_label_values(&[of.name.as_str()]).set(bytes);
        }
    }
}

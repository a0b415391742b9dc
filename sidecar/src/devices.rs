//! `devices`: what this machine and this program have to compute with, before anybody asks for a
//! model.

use std::fmt;

use plimsoll_kernels::cards::{self, Cards, Embedded};
use plimsoll_kernels::device::{Cpu, Device as _, DeviceError};
use plimsoll_kernels::isa::Isa;
use plimsoll_kernels::pool;
use plimsoll_planner::Bytes;
use serde_json::{Value, json};

/// Cores, cards, and the kernels for those.
#[derive(Clone, Debug)]
pub struct Devices {
    threads: usize,
    isa: Isa,
    memory: Bytes,
    cards: Cards,
    embedded: Vec<Embedded>,
}

/// Looks for everything; loads the CUDA driver where there is one.
///
/// # Errors
/// When the machine does not say how much memory it has.
pub fn find() -> Result<Devices, DeviceError> {
    Ok(Devices {
        threads: pool::available_cpus(),
        isa: Isa::detect(),
        memory: Cpu.total_memory()?,
        cards: cards::find(),
        embedded: cards::embedded(),
    })
}

impl Devices {
    /// The same as JSON, for scripts.
    pub fn json(&self) -> Value {
        let (cards, reason) = match &self.cards {
            Cards::Found(found) => (found.as_slice(), None),
            Cards::None(reason) => (&[][..], Some(reason.as_str())),
            Cards::BuiltWithout => (&[][..], Some(BUILT_WITHOUT)),
        };
        let cards: Vec<Value> = cards
            .iter()
            .map(|card| {
                json!({
                    "index": card.index, "name": card.name, "computeCapability": card.capability,
                    "totalBytes": card.total_bytes, "freeBytes": card.free_bytes,
                })
            })
            .collect();
        let kernels: Vec<Value> = self
            .embedded
            .iter()
            .map(|image| json!({"op": image.op, "bytes": image.bytes}))
            .collect();
        json!({
            "cpu": {
                "threads": self.threads, "instructions": self.isa.to_string(),
                "totalBytes": self.memory.get(),
            },
            "cuda": {"cards": cards, "reason": reason, "kernels": kernels},
        })
    }
}

const BUILT_WITHOUT: &str = "this program was built without CUDA (cargo build --features cuda)";

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Devices {
            threads,
            isa,
            memory,
            cards,
            embedded,
        } = self;
        writeln!(f, "CPU      {threads} threads, {isa}, {memory}")?;
        match cards {
            Cards::BuiltWithout => return writeln!(f, "CUDA     {BUILT_WITHOUT}"),
            Cards::None(reason) => writeln!(f, "CUDA     {reason}")?,
            Cards::Found(found) => {
                for card in found {
                    let (total, free) = (card.total_bytes, card.free_bytes);
                    writeln!(
                        f,
                        "CUDA {}   {}, compute capability {}.{}, {} of {} free",
                        card.index,
                        card.name,
                        card.capability / 10,
                        card.capability % 10,
                        Bytes::measured(free),
                        Bytes::measured(total)
                    )?;
                }
            }
        }
        let bytes: usize = embedded.iter().filter_map(|image| image.bytes).sum();
        match embedded.iter().find(|image| image.bytes.is_none()) {
            Some(missing) => writeln!(
                f,
                "kernels  none for {}: this program was built without nvcc (kernels/setup-nvcc)",
                missing.op
            ),
            None => writeln!(
                f,
                "kernels  {} ops, {} embedded",
                embedded.len(),
                Bytes::measured(bytes as u64)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_kernels::card::Found;

    use super::*;

    fn devices(cards: Cards) -> Devices {
        Devices {
            threads: 2,
            isa: Isa::Scalar,
            memory: Bytes::measured(24 << 30),
            cards,
            embedded: vec![Embedded {
                op: "attention",
                bytes: Some(3 << 20),
            }],
        }
    }

    #[test]
    fn a_card_is_shown_with_its_memory() {
        let card = Found {
            index: 0,
            name: "NVIDIA H200".to_owned(),
            capability: 90,
            total_bytes: 140 << 30,
            free_bytes: 139 << 30,
        };
        let devices = devices(Cards::Found(vec![card]));
        let text = devices.to_string();
        assert!(
            text.contains(
                "CUDA 0   NVIDIA H200, compute capability 9.0, 139.00 GiB of 140.00 GiB free"
            ),
            "{text}"
        );
        assert!(text.contains("kernels  1 ops, 3.00 MiB embedded"), "{text}");
        let json = devices.json();
        assert_eq!(json["cuda"]["cards"][0]["freeBytes"], json!(139_u64 << 30));
        assert_eq!(json["cuda"]["reason"], Value::Null);
    }

    #[test]
    fn no_card_gives_the_reason() {
        let devices = devices(Cards::None(
            "no CUDA device: libcuda is not there".to_owned(),
        ));
        assert!(
            devices
                .to_string()
                .contains("CUDA     no CUDA device: libcuda"),
            "{devices}"
        );
        assert_eq!(devices.json()["cuda"]["cards"], json!([]));
    }

    #[test]
    fn kernels_that_are_missing_are_named() {
        let mut devices = devices(Cards::None("none".to_owned()));
        devices.embedded[0].bytes = None;
        let text = devices.to_string();
        assert!(
            text.contains("none for attention") && text.contains("setup-nvcc"),
            "{text}"
        );
    }
}

//! A kernel's arguments: each in a word of its own, so that the driver can be given their addresses.

use super::tensor::{Tensor, TensorMut};

const MOST: usize = 24;

/// In the order of the kernel's parameters.
#[derive(Clone, Debug)]
pub struct Arguments {
    words: [u64; MOST],
    /// A letter each: p(ointer), u (4-byte integer), f(loat), q (8-byte integer).
    kinds: [u8; MOST],
    count: usize,
}

impl Default for Arguments {
    fn default() -> Self {
        Arguments {
            words: [0; MOST],
            kinds: [0; MOST],
            count: 0,
        }
    }
}

impl Arguments {
    pub fn new() -> Arguments {
        Arguments::default()
    }

    pub fn read(self, tensor: Tensor<'_>) -> Arguments {
        self.push(tensor.address(), b'p')
    }

    pub fn write(self, tensor: &TensorMut<'_>) -> Arguments {
        self.push(tensor.address(), b'p')
    }

    /// A pointer that the kernel does not follow.
    pub fn null(self) -> Arguments {
        self.push(0, b'p')
    }

    pub fn u32(self, value: u32) -> Arguments {
        self.push(value.into(), b'u')
    }

    pub fn u64(self, value: u64) -> Arguments {
        self.push(value, b'q')
    }

    pub fn f32(self, value: f32) -> Arguments {
        self.push(value.to_bits().into(), b'f')
    }

    fn push(mut self, word: u64, kind: u8) -> Arguments {
        assert!(self.count < MOST, "a kernel takes at most {MOST} arguments");
        self.words[self.count] = word;
        self.kinds[self.count] = kind;
        self.count += 1;
        self
    }

    /// The words; the first bytes of each are the argument (this machine is little endian).
    pub fn words(&self) -> &[u64] {
        &self.words[..self.count]
    }

    pub fn kinds(&self) -> &str {
        std::str::from_utf8(&self.kinds[..self.count]).unwrap_or_default()
    }
}

#[cfg(target_endian = "big")]
compile_error!("arguments are passed by the address of a word's low bytes");

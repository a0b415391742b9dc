//! Pieces of a GGUF file, as a model of random weights needs them.

pub(super) const ALIGNMENT: u64 = 32;

/// The keys at the beginning of a file, one after another.
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) count: u64,
    pub(super) bytes: Vec<u8>,
}

impl Metadata {
    fn key(&mut self, key: &str, kind: u32) {
        self.count += 1;
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
    }

    pub(super) fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn string(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        text(&mut self.bytes, value);
    }

    pub(super) fn strings(&mut self, key: &str, values: &[String]) {
        self.key(key, 9);
        self.bytes.extend(8_u32.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            text(&mut self.bytes, value);
        }
    }

    pub(super) fn numbers(&mut self, key: &str, values: &[u32]) {
        self.key(key, 9);
        self.bytes.extend(5_u32.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            self.bytes.extend(value.to_le_bytes());
        }
    }
}

pub(super) fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

pub(super) fn pad(bytes: &mut Vec<u8>) {
    let alignment = usize::try_from(ALIGNMENT).unwrap_or(1);
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
}

//! Poison is not a number whatever lies there.

use half::{bf16, f16};

use super::*;

#[test]
fn poison_is_not_a_number_in_every_float_type() {
    let mut bytes = [0; 4];
    run(&mut bytes);
    assert!(f32::from_le_bytes(bytes).is_nan());
    assert!(f16::from_le_bytes([bytes[0], bytes[1]]).is_nan());
    assert!(bf16::from_le_bytes([bytes[2], bytes[3]]).is_nan());
    run(&mut []);
}

//! Against the definition, with every number of threads, and lists that are no order.

use super::*;
use crate::isa::Isa;
use crate::testing::Random;

#[test]
fn every_row_has_its_numbers_in_the_order_of_the_list() {
    let mut random = Random::new(7);
    for (tokens, cols) in [(1, 1), (1, 4096), (5, 96), (40, 1000)] {
        let x = random.values(tokens * cols);
        // A step that shares no factor with the columns names each once.
        let column = |at: usize| u32::try_from(at * 7919 % cols).unwrap();
        let columns: Vec<u32> = (0..cols).map(column).collect();
        for threads in 1..=3 {
            let pool = Pool::new(threads, Isa::detect()).unwrap();
            let mut out = vec![f32::NAN; x.len()];
            run(&pool, &x, &columns, &mut out);
            for (at, out) in out.iter().enumerate() {
                let (row, col) = (at / cols, at % cols);
                assert_eq!(*out, x[row * cols + columns[col] as usize], "{row} {col}");
            }
        }
    }
}

#[test]
fn a_column_of_no_input_is_no_number_and_no_rows_are_legal() {
    let pool = Pool::new(1, Isa::detect()).unwrap();
    let mut out = [0.0; 4];
    run(&pool, &[1.0, 2.0, 3.0, 4.0], &[2, 0], &mut out);
    assert!(out[0].is_nan() && out[2].is_nan(), "{out:?}");
    assert_eq!([out[1], out[3]], [1.0, 3.0]);
    run(&pool, &[], &[1, 0], &mut []);
    run(&pool, &[], &[], &mut []);
}

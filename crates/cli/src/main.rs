//! `strata`.

fn main() {}

//! `strata-shim`.

fn main() {}

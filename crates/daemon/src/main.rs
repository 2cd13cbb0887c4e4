//! `stratad`.

fn main() {}

//! `stratad`.

mod error;
mod net;

fn main() {}

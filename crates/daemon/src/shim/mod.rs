//! The daemon's side of shims: starting them ([`spawn`]), talking to them ([`client`]).

pub(crate) mod client;
pub(crate) mod spawn;

pub(crate) use client::{Connected, PROMPT, Shim};
pub(crate) use spawn::Spawner;

//! The daemon's side of shims: starting them ([`spawn`]), talking to them ([`client`]), and
//! sessions with a container's streams ([`session`]).

pub(crate) mod client;
mod session;
pub(crate) mod spawn;

pub(crate) use client::{Connected, PROMPT, Shim, ShimError};
pub(crate) use session::Session;
pub(crate) use spawn::Spawner;

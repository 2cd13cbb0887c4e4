//! The daemon's side of shims: starting them ([`spawn`]), talking to them ([`client`]), sessions with a container's streams
//! ([`session`]), and what becomes of those that do not answer ([`process`]).

pub(crate) mod client;
pub(crate) mod process;
mod session;
pub(crate) mod spawn;

pub(crate) use client::{Connected, PROMPT, Shim, ShimError};
pub(crate) use session::Session;
pub(crate) use spawn::Spawner;

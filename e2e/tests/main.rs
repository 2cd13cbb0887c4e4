//! End-to-end tests: each has a node of its own, and nothing of it may be left afterwards.

mod archive;
mod contract;
mod crash;
mod credentials;
mod crictl;
mod descriptors;
mod edges;
mod errors;
mod fsck;
mod giants;
mod hammer;
mod handlers;
mod layers;
mod lifecycle;
mod limits;
mod network;
mod observe;
mod pods;
mod reboot;
mod registry;
mod security;
mod space;
mod streaming;
mod terminal;
mod walk;

//! gRPC code generated from `proto/`: CRI v1 ([`cri`]) and what the command line needs beside it ([`debug`]).

/// The Kubernetes Container Runtime Interface, version 1.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// Strata's own service for what CRI lacks.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod debug {
    tonic::include_proto!("strata.debug.v1");
}

mod secrets;
mod text;

/// The serialized `google.protobuf.FileDescriptorSet` of both packages.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

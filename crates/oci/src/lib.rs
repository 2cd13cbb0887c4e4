//! OCI types and parsers without I/O

pub mod caps;
pub mod seccomp;

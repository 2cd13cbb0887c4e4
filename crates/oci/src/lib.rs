//! OCI types and parsers without I/O

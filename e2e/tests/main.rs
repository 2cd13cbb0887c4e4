//! End-to-end tests: each has a node of its own, and nothing of it may be left afterwards.

mod descriptors;

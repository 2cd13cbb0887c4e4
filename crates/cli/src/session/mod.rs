//! Sessions: straight to the pod's shim, so that they outlive a restart of stratad.

pub(crate) mod attach;
pub(crate) mod exec;
pub(crate) mod shim;
pub(crate) mod streams;

//! The layer store: everything Strata keeps on disk

//! Safe wrappers of the kernel interfaces that Strata needs

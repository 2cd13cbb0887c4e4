//! One container from a prepared plan

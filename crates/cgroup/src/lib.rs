//! cgroup v1, hybrid and v2 by files

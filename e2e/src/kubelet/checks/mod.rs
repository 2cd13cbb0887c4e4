//! What a kubelet and Strata do together: each check makes its pods and removes them.

mod basics;
mod life;
mod more;
mod node;
mod streams;

use super::Kubelet;

/// A check; it panics with what is wrong.
pub type Check = fn(&mut Kubelet<'_>);

/// All of them, by name, in the order in which they run.
pub const ALL: [(&str, Check); 21] = [
    ("a pod runs and is removed", basics::pod_runs),
    ("volumes and variables", basics::volumes),
    ("users, capabilities and seccomp", basics::security),
    ("the node's network", basics::host_network),
    ("a user namespace", basics::user_namespace),
    ("probes", life::probes),
    ("hooks and messages", life::hooks),
    ("init containers, sidecars, back-off", life::order),
    ("out of memory", life::out_of_memory),
    ("a missing image", life::pulls),
    ("exec, attach, port-forward, logs", streams::all),
    ("cgroups of each class", node::groups),
    ("stats and metrics", node::numbers),
    ("log rotation", node::rotation),
    ("image collection", node::image_collection),
    ("evented PLEG", node::events),
    ("restarts of the kubelet and of stratad", node::restarts),
    ("newer fields of pods", more::newer_fields),
    ("many pods while stratad is killed", more::many),
    ("CNI and host ports", more::cni),
    ("nothing is left", node::nothing_left),
];

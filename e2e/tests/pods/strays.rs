//! What hooks leave running.

use super::hooks::{ask, hook, install, report, said, wait_for};
use super::sleeper;
use strata_e2e::eventually;
use strata_e2e::node::{process, test};

/// A daemon that is killed takes its hook with it, and the next one what the hook had started, wherever that has gone: it would be
/// in the way of the same hook's next run. What a hook that has ended left is let alone.
#[test]
fn what_a_hook_has_started_ends_with_it_if_its_daemon_is_killed() {
    test(|node| {
        // In a session of its own: neither the hook's end nor its process group reaches it.
        let script = "setsid sleep 1000 & echo $! >> $R/strays; while [ ! -e $R/go ]; do sleep 0.05; done; touch $R/done";
        install(node, &[hook(node, "poststop", script)]);
        let (_, id) = sleeper(node, "strays", |_, config| ask(config));
        let strays =
            || -> Vec<i32> { said(node, "strays").lines().map(|pid| pid.parse().unwrap()).collect() };
        let started = |n: usize| {
            eventually(30, "the hook runs", || match strays() {
                strays if strays.len() == n => Ok(strays),
                strays => Err(format!("{strays:?}")),
            })
        };
        node.stop_container(&id, 0).unwrap();
        let first = started(1)[0];
        assert!(process::runs(first));
        node.crash();
        eventually(30, "it has gone", || match process::runs(first) {
            false => Ok(()),
            true => Err(first.to_string()),
        });
        let second = started(2)[1];
        std::fs::write(report(node).join("go"), "").unwrap();
        wait_for(node, "done");
        node.remove_container(&id).unwrap();
        node.crash();
        let alone = process::runs(second);
        process::kill(second);
        assert!(alone, "what the hook left on purpose has been killed");
    });
}

//! What `kubectl exec`, `attach`, `port-forward` and `logs` ask of the kubelet.

use crate::kubelet::{Kubelet, container, pod};
use serde_json::json;

/// exec with both protocols, attach, port-forward and logs.
pub(super) fn all(kubelet: &mut Kubelet<'_>) {
    let node = kubelet.node();
    let main = container(
        node,
        "main",
        "echo one; echo two >&2; mkdir /tmp/w; echo a page > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w",
        &json!({ "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 } }),
    );
    let terminal = container(node, "terminal", "exec sh", &json!({ "stdin": true, "tty": true }));
    kubelet.run(&pod("streams", &[main, terminal], &json!({})));
    for how in ["", "&websocket=1"] {
        let both = format!("output=1&error=1{how}");
        let done = kubelet.exec("streams", "main", "echo out; echo err >&2; exit 5", &both, "");
        assert_eq!((done.stdout.as_str(), done.code), ("out\n", 5), "{done}");
        assert!(done.stderr.starts_with("err\n"), "{done}");
        let input = format!("input=1&{both}");
        let done = kubelet.exec("streams", "main", "cat; echo eof", &input, "some\nlines\n").ok();
        assert_eq!(done.stdout, "some\nlines\neof\n", "{done}");
        let done = kubelet.exec(
            "streams",
            "main",
            "test -t 0 && stty size",
            &format!("input=1&output=1&tty=1{how}"),
            "",
        );
        assert_eq!(done.code, 0, "{done}");
    }
    let page = kubelet.forward("streams", 8080, "GET /index.html HTTP/1.0\r\n\r\n").ok();
    assert!(page.stdout.ends_with("\r\n\r\na page\n"), "{page}");
    let refused = kubelet.forward("streams", 8081, "GET / HTTP/1.0\r\n\r\n");
    assert!(refused.stderr.contains("8081"), "{refused}");
    let mut lines: Vec<String> = kubelet.logs("streams", "main", "").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["one", "two"]);
    assert_eq!(kubelet.logs("streams", "main", "tailLines=1&timestamps=true").lines().count(), 1);
    let done = kubelet.attach("streams", "terminal", "input=1&output=1&tty=1", "echo by $0; exit\n").ok();
    assert!(done.stdout.contains("by sh\r\n"), "{done}");
    kubelet.remove("streams");
    attach(kubelet);
}

/// What is sent to a container that reads; its input ends with the first client's, and the client with the container.
fn attach(kubelet: &Kubelet<'_>) {
    let node = kubelet.node();
    let script = "while read line; do echo \"got $line\"; done; echo eof; exit 3";
    let reader = container(node, "reader", script, &json!({ "stdin": true, "stdinOnce": true }));
    kubelet.put(&pod("attach", &[reader], &json!({ "restartPolicy": "Never" })));
    kubelet.wait("attach", "it runs", |status| status.phase() == "Running");
    let done = kubelet.attach("attach", "reader", "input=1&output=1&error=1", "first\nsecond\n").ok();
    assert_eq!(done.stdout, "got first\ngot second\neof\n", "{done}");
    kubelet.wait("attach", "it has failed", |status| status.phase() == "Failed");
    assert_eq!(kubelet.logs("attach", "reader", ""), done.stdout);
    kubelet.remove("attach");
}

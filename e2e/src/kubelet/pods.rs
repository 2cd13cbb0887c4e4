//! Pods as files of the kubelet's, and what the kubelet says of them.

use super::{Kubelet, NAME};
use crate::node::Node;
use serde_json::{Value, json};

/// A pod's manifest: a name, its containers, and further keys of `spec`.
pub fn pod(name: &str, containers: &[Value], more: &Value) -> Value {
    let mut spec = json!({ "containers": containers, "terminationGracePeriodSeconds": 1 });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" }, "spec": spec })
}

/// A container that runs a script in busybox, and further keys.
pub fn container(node: &Node, name: &str, script: &str, more: &Value) -> Value {
    let mut container = json!({
        "name": name, "image": node.image("busybox"), "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    container
}

/// A pod as the kubelet shows it.
#[derive(Clone, Debug)]
pub struct Status(pub Value);

impl Status {
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub fn phase(&self) -> &str {
        self.0["status"]["phase"].as_str().unwrap_or_default()
    }

    /// The pod's UID: a static pod's is a hash that the kubelet makes.
    pub fn uid(&self) -> &str {
        self.0["metadata"]["uid"].as_str().unwrap_or_default()
    }

    /// The pod's address.
    pub fn ip(&self) -> &str {
        self.0["status"]["podIP"].as_str().unwrap_or_default()
    }

    /// The status of a container, init containers included.
    pub fn container(&self, name: &str) -> &Value {
        let status = &self.0["status"];
        ["containerStatuses", "initContainerStatuses"]
            .into_iter()
            .flat_map(|list| status[list].as_array().into_iter().flatten())
            .find(|one| one["name"] == name)
            .unwrap_or(&Value::Null)
    }

    /// The ID of a container.
    pub fn id(&self, container: &str) -> &str {
        self.container(container)["containerID"]
            .as_str()
            .and_then(|id| id.strip_prefix("strata://"))
            .unwrap_or_default()
    }

    /// Whether all containers are ready, in the kubelet's words.
    pub fn ready(&self) -> bool {
        self.0["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
    }
}

impl Kubelet<'_> {
    /// Puts a pod's file into the directory, whole.
    #[track_caller]
    pub fn put(&self, pod: &Value) {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let (new, to) = (self.node.dir("manifest.new"), self.node.dir(&format!("manifests/{name}.json")));
        let put = std::fs::write(&new, pod.to_string()).and_then(|()| std::fs::rename(new, to));
        put.unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// Takes a pod's file away, and waits until the kubelet has ended the pod. What is left of it goes later: [`Self::collected`].
    #[track_caller]
    pub fn remove(&self, name: &str) {
        let file = self.node.dir(&format!("manifests/{name}.json"));
        std::fs::remove_file(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        crate::eventually(60, &format!("pod {name} has ended"), || {
            if self.status(name).is_some() {
                return Err("the kubelet has it".into());
            }
            let ready = ["pods", "--state", "ready", "--name", &format!("{name}-{NAME}"), "-q"];
            let listed = self.node.crictl(&ready).ok();
            if listed.text().is_empty() { Ok(()) } else { Err(format!("Strata has {}", listed.text())) }
        });
    }

    /// Waits until the kubelet has removed what ended pods have left, which it does once a minute.
    #[track_caller]
    pub fn collected(&self) {
        crate::eventually(100, "the kubelet has removed all ended pods", || {
            let (pods, containers) = (self.node.crictl(&["pods"]).ok(), self.node.crictl(&["ps", "-a"]).ok());
            let left: Vec<&str> =
                [&pods, &containers].iter().flat_map(|listed| listed.text().lines().skip(1)).collect();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }

    /// What the kubelet says of a pod.
    #[track_caller]
    pub fn status(&self, name: &str) -> Option<Status> {
        let all = self.get("/pods").ok().json();
        let found =
            all["items"].as_array()?.iter().find(|pod| pod["metadata"]["name"] == format!("{name}-{NAME}"));
        found.cloned().map(Status)
    }

    /// Waits until the kubelet says of a pod what is wanted.
    #[track_caller]
    pub fn wait(&self, name: &str, what: &str, good: impl Fn(&Status) -> bool) -> Status {
        crate::eventually(60, &format!("pod {name}: {what}"), || match self.status(name) {
            Some(status) if good(&status) => Ok(status),
            Some(status) => Err(format!("{:#}", status.0["status"])),
            None => Err("the kubelet does not know it".into()),
        })
    }

    /// Puts a pod there and waits until it is ready.
    #[track_caller]
    pub fn run(&self, pod: &Value) -> Status {
        self.put(pod);
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        self.wait(name, "it is ready", Status::ready)
    }

    /// What a container has written, as `kubectl logs` asks for it.
    #[track_caller]
    pub fn logs(&self, pod: &str, container: &str, query: &str) -> String {
        self.get(&format!("/containerLogs/default/{pod}-{NAME}/{container}?{query}")).ok().stdout
    }
}

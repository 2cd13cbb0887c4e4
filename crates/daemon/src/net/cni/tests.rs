//! The provider with plugins that only write down what they are told; real ones are in the end-to-end tests.

use super::*;
use crate::net::Protocol;
use serde_json::json;
use std::io::Write as _;
use std::path::Path;

/// Appends its verb and what it was given; answers ADD with an address, and fails as `fail` in its configuration says.
const PLUGIN: &str = r#"#!/bin/sh
config=$(cat)
echo "${0##*/} $CNI_COMMAND $config" >>"${0%/*}/log"
case "$config" in *'"fail":"'"$CNI_COMMAND"'"'*) echo '{"code":'"$(cat "${0%/*}/code")"',"msg":"no"}'; exit 1 ;; esac
[ "$CNI_COMMAND" != ADD ] || echo '{"ips":[{"address":"192.0.2.9/24"}],"by":"'"${0##*/}"'"}'
"#;

/// Plugins, a list and a pod that no other test has: a plugin that fails takes the pod's other processes with it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for name in ["first", "second"] {
            // By a program: what another test starts meanwhile would have this process' files open for writing (ETXTBSY).
            let mut install = std::process::Command::new("install");
            install.args(["-m", "755", "/dev/stdin"]).arg(place.path().join(name));
            let mut install = install.stdin(std::process::Stdio::piped()).spawn().unwrap();
            install.stdin.take().unwrap().write_all(PLUGIN.as_bytes()).unwrap();
            assert!(install.wait().unwrap().success());
        }
        place
    }

    fn pod_id(&self) -> String {
        format!(
            "cni-unit-test-{}",
            self.path().file_name().unwrap().to_string_lossy().trim_start_matches('.')
        )
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn list(&self, version: &str, fail: &str) {
        let list = json!({
            "cniVersion": version,
            "name": "net",
            "plugins": [
                { "type": "first" },
                { "type": "second", "capabilities": { "portMappings": true }, "fail": fail }
            ]
        });
        self.put(&list);
    }

    fn put(&self, list: &Value) {
        std::fs::write(self.path().join("10.conflist"), list.to_string()).unwrap();
    }

    fn provider(&self) -> Cni {
        let config = config::Network {
            cni_conf_dir: self.path().into(),
            cni_bin_dirs: vec![self.path().into()],
            ..config::Network::default()
        };
        Cni::new(&config, None, Boot::new(self.path(), "boot"))
    }

    /// Plugin, verb and configuration of each call.
    fn calls(&self) -> Vec<(String, Value)> {
        let log = std::fs::read_to_string(self.path().join("log")).unwrap_or_default();
        let call = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let who = format!("{} {}", words.next().unwrap(), words.next().unwrap());
            (who, serde_json::from_str(words.next().unwrap()).unwrap())
        };
        log.lines().map(call).collect()
    }

    /// How often plugins were called with a verb.
    fn count(&self, verb: &str) -> usize {
        self.calls().iter().filter(|(who, _)| who.ends_with(&format!(" {verb}"))).count()
    }
}

async fn request(place: &Place, cni: &Cni) -> AttachRequest {
    let mut request = AttachRequest {
        pod_id: place.pod_id(),
        ports: vec![PortMapping::parse("", 8080, 80, Protocol::Tcp).unwrap()],
        ..AttachRequest::default()
    };
    request.intent = cni.intent(&request).await.unwrap();
    request
}

fn detach(request: &AttachRequest, attachment: Option<Attachment>) -> DetachRequest {
    DetachRequest { pod_id: request.pod_id.clone(), netns: None, intent: request.intent.clone(), attachment }
}

#[tokio::test]
async fn add_goes_forwards_and_del_backwards_with_what_was_recorded() {
    let place = Place::new();
    place.list("1.0.0", "");
    let cni = place.provider();
    assert!(cni.status().await.ready);
    let request = request(&place, &cni).await;
    std::fs::remove_file(place.path().join("10.conflist")).unwrap();
    assert!(cni.status().await.message.contains("no network list"));
    let attachment = cni.attach(request.clone()).await.unwrap();
    assert_eq!(attachment.ips, ["192.0.2.9".parse::<std::net::IpAddr>().unwrap()]);
    cni.detach(detach(&request, Some(attachment))).await.unwrap();
    let calls = place.calls();
    let order: Vec<_> = calls.iter().map(|(who, _)| who.as_str()).collect();
    assert_eq!(order, ["first ADD", "second ADD", "second DEL", "first DEL"]);
    let config = |i: usize| &calls[i].1;
    assert_eq!((&config(0)["name"], &config(0)["cniVersion"]), (&json!("net"), &json!("1.0.0")));
    assert!(config(0).get("runtimeConfig").is_none() && config(0).get("prevResult").is_none());
    assert_eq!(config(1)["runtimeConfig"]["portMappings"][0]["hostPort"], json!(8080));
    assert_eq!(config(1)["prevResult"]["by"], json!("first"));
    assert_eq!(config(1)["prevResult"]["cniVersion"], json!("1.0.0"));
    for i in [2, 3] {
        assert_eq!(config(i)["prevResult"]["by"], json!("second"));
    }
    assert!(cni.pods().is_empty());
}

#[tokio::test]
async fn what_fails_is_told_and_stays_owed() {
    let place = Place::new();
    place.list("0.3.1", "DEL");
    let cni = place.provider();
    let request = request(&place, &cni).await;
    let attachment = cni.attach(request.clone()).await.unwrap();
    std::fs::write(place.path().join("code"), "11").unwrap();
    let error = cni.detach(detach(&request, Some(attachment.clone()))).await.unwrap_err();
    assert!(
        error.to_string().contains("second") && error.kind() == crate::error::Kind::Unavailable,
        "{error}"
    );
    assert_eq!(cni.pods().len(), 1);
    // A plugin that does not know the pod has nothing to give back.
    std::fs::write(place.path().join("code"), "3").unwrap();
    cni.detach(detach(&request, Some(attachment))).await.unwrap();
    // 0.3.1 has no result in DEL.
    assert!(place.calls().last().unwrap().1.get("prevResult").is_none());
    // Nothing recorded, nothing to do.
    let nothing = DetachRequest { intent: None, ..detach(&request, None) };
    cni.detach(nothing).await.unwrap();
}

#[tokio::test]
async fn empty_records_that_could_not_be_removed_stay_due() {
    let place = Place::new();
    let data = place.path().join("data/net");
    std::fs::create_dir_all(&data).unwrap();
    let record = data.join("10.0.0.2");
    std::fs::write(&record, "").unwrap();
    let ipam = json!({ "type": "host-local", "dataDir": place.path().join("data") });
    let list =
        json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "first", "ipam": ipam }] });
    std::fs::write(place.path().join("10.conflist"), list.to_string()).unwrap();
    let held = std::fs::File::create(data.join("lock")).unwrap();
    held.lock().unwrap();
    let cni = place.provider();
    cni.list().await.unwrap();
    assert!(record.exists());
    drop(held);
    cni.list().await.unwrap();
    assert!(!record.exists());
}

#[tokio::test]
async fn what_only_a_runtime_says_is_not_taken_from_a_file() {
    let place = Place::new();
    let plugin = json!({
        "type": "first",
        "capabilities": { "portMappings": true, "unheardOf": true, "dns": false },
        "prevResult": { "ips": [] },
        "cni.dev/valid-attachments": [],
        "args": { "cni": { "labels": [] } },
        "own": 7
    });
    place.put(&json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [plugin] }));
    let cni = place.provider();
    let request = request(&place, &cni).await;
    let attachment = cni.attach(request.clone()).await.unwrap();
    cni.detach(detach(&request, Some(attachment))).await.unwrap();
    let calls = place.calls();
    assert_eq!(calls.iter().map(|(who, _)| who.as_str()).collect::<Vec<_>>(), ["first ADD", "first DEL"]);
    for (who, config) in &calls {
        assert!(config.get("capabilities").is_none(), "{who}: {config}");
        assert!(config.get("cni.dev/valid-attachments").is_none(), "{who}: {config}");
        let told: Vec<&String> = config["runtimeConfig"].as_object().unwrap().keys().collect();
        assert_eq!(told, ["portMappings"], "{who}");
        assert_eq!((&config["own"], &config["args"]["cni"]["labels"]), (&json!(7), &json!([])), "{who}");
    }
    assert!(calls[0].1.get("prevResult").is_none(), "{}", calls[0].1);
    assert_eq!(calls[1].1["prevResult"]["by"], json!("first"));
}

/// A daemon's start with a pod that runs; how often CHECK and GC were called.
async fn upkeep(place: &Place) -> (usize, usize) {
    let before = place.provider();
    let request = request(place, &before).await;
    let attachment = before.attach(request.clone()).await.unwrap();
    let held = Held {
        pod_id: request.pod_id.clone(),
        netns: None,
        intent: request.intent.clone(),
        attachment: Some(attachment),
        live: true,
        ready: true,
    };
    let cni = place.provider();
    cni.recover(vec![held]).await.unwrap();
    // In this order: each CHECK, then GC once it is alone, begun by tasks of this thread.
    for _ in 0..3000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if !cni.0.gc_due.load(std::sync::atomic::Ordering::SeqCst) {
            break;
        }
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(cni.0.traffic.write().await);
    (place.count("CHECK"), place.count("GC"))
}

#[tokio::test]
async fn check_and_gc_come_with_their_versions_and_unless_a_list_forbids_them() {
    let plugins = json!([{ "type": "first" }, { "type": "second" }]);
    for (more, want) in [
        (json!({ "cniVersion": "0.3.1" }), (0, 0)),
        (json!({ "cniVersion": "1.0.0" }), (2, 0)),
        (json!({ "cniVersion": "1.1.0" }), (2, 2)),
        (json!({ "cniVersion": "1.1.0", "disableCheck": true }), (0, 2)),
        (json!({ "cniVersion": "1.1.0", "disableGC": "true" }), (2, 0)),
    ] {
        let place = Place::new();
        let mut list = json!({ "name": "net", "plugins": plugins });
        list.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        place.put(&list);
        assert_eq!(upkeep(&place).await, want, "{list}");
    }
}

#[tokio::test]
async fn gc_goes_on_after_a_plugin_that_fails_and_check_does_not() {
    let place = Place::new();
    std::fs::write(place.path().join("code"), "11").unwrap();
    let of = |verb: &str| {
        let plugins = json!([{ "type": "first", "fail": verb }, { "type": "second" }]);
        json!({ "cniVersion": "1.1.0", "name": "net", "plugins": plugins })
    };
    place.put(&of("GC"));
    assert_eq!(upkeep(&place).await, (2, 2));
    let pods = json!([{ "containerID": place.pod_id(), "ifname": INTERFACE }]);
    for (who, config) in place.calls().iter().filter(|(who, _)| who.ends_with("GC")) {
        assert_eq!(config["cni.dev/valid-attachments"], pods, "{who}");
        assert!(config.get("prevResult").is_none() && config.get("runtimeConfig").is_none(), "{who}");
    }
    let place = Place::new();
    std::fs::write(place.path().join("code"), "11").unwrap();
    place.put(&of("CHECK"));
    assert_eq!(upkeep(&place).await, (1, 2));
}

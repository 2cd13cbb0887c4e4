//! The provider with plugins that only write down what they are told; real ones are in the end-to-end tests.

use super::*;
use crate::net::Protocol;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Appends its verb and what it was given; answers ADD with an address, and fails as `fail` in its configuration says.
const PLUGIN: &str = r#"#!/bin/sh
config=$(cat)
echo "${0##*/} $CNI_COMMAND $config" >>"${0%/*}/log"
case "$config" in *'"fail":"'"$CNI_COMMAND"'"'*) echo '{"code":'"$(cat "${0%/*}/code")"',"msg":"no"}'; exit 1 ;; esac
[ "$CNI_COMMAND" != ADD ] || echo '{"ips":[{"address":"192.0.2.9/24"}],"by":"'"${0##*/}"'"}'
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for name in ["first", "second"] {
            std::fs::write(place.path().join(name), PLUGIN).unwrap();
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(place.path().join(name), mode).unwrap();
        }
        place
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
}

async fn request(cni: &Cni) -> AttachRequest {
    let mut request = AttachRequest {
        pod_id: "cni-unit-test".into(),
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
    let request = request(&cni).await;
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
    let request = request(&cni).await;
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

//! An image as `docker image inspect` shows it.

use super::images::{familiar, find};
use crate::error::Result;
use crate::node::Node;
use serde_json::{Map, Value, json};
use strata_api::debug;
use strata_oci::config::Execution;
use strata_store::{Image, ImageLayer};

pub(super) fn inspect(node: &Node, request: &debug::InspectRequest) -> Result<debug::InspectResponse> {
    let image = find(node, &request.r#ref)?;
    let layers = node.store.root().join("layers");
    let dir = |layer: &ImageLayer| layers.join(&layer.key).join("fs").to_string_lossy().into_owned();
    Ok(debug::InspectResponse { json: json!([document(&image, &dir)]).to_string() })
}

fn document(image: &Image, dir: &dyn Fn(&ImageLayer) -> String) -> Value {
    let names = |list: &[String]| list.iter().map(|n| familiar(n)).collect::<Vec<_>>();
    let mut value = json!({
        "Id": image.id,
        "RepoTags": names(&image.repo_tags),
        "RepoDigests": names(&image.repo_digests),
        "Parent": "",
        "Comment": image.config.history.last().map_or("", |h| h.comment.as_str()),
        "Created": image.config.created.as_deref().unwrap_or_default(),
        "Author": image.config.author,
        "Architecture": image.config.architecture,
        "Os": image.config.os,
        "Size": image.size,
        "GraphDriver": { "Name": "overlay", "Data": graph(image, dir) },
        "RootFS": { "Type": "layers", "Layers": image.config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": time(image.since) },
        "Config": execution(&image.config.config),
        "Descriptor": image.manifest,
    });
    if let (Value::Object(object), false) = (&mut value, image.config.variant.is_empty()) {
        object.insert("Variant".into(), image.config.variant.clone().into());
    }
    value
}

/// The topmost layer is what Docker calls the upper one.
fn graph(image: &Image, dir: &dyn Fn(&ImageLayer) -> String) -> Value {
    let mut dirs = image.layers.iter().rev().map(dir);
    let upper = dirs.next();
    let lower: Vec<String> = dirs.collect();
    let mut data = Map::new();
    if !lower.is_empty() {
        data.insert("LowerDir".into(), lower.join(":").into());
    }
    if let Some(upper) = upper {
        data.insert("UpperDir".into(), upper.into());
    }
    Value::Object(data)
}

/// Docker's `Config`: also empty fields are there, so that templates which name them work.
pub(super) fn execution(config: &Execution) -> Value {
    let list = |l: &[String]| if l.is_empty() { Value::Null } else { json!(l) };
    let mut value = json!({
        "User": config.user,
        "Env": config.env,
        "Cmd": list(&config.cmd),
        "Entrypoint": list(&config.entrypoint),
        "WorkingDir": config.working_dir,
        "Labels": config.labels,
        "OnBuild": list(&config.on_build),
        "Volumes": if config.volumes.is_empty() { Value::Null } else { json!(config.volumes) },
    });
    if let Value::Object(object) = &mut value {
        if !config.exposed_ports.is_empty() {
            object.insert("ExposedPorts".into(), json!(config.exposed_ports));
        }
        if !config.stop_signal.is_empty() {
            object.insert("StopSignal".into(), config.stop_signal.clone().into());
        }
        if let Some(check) = &config.healthcheck {
            object.insert("Healthcheck".into(), check.clone());
        }
        for (key, other) in &config.other {
            object.entry(key.clone()).or_insert_with(|| other.clone());
        }
    }
    value
}

/// A time as JSON documents write it; Go's zero time for one that never was.
pub(super) fn time(nanos: i64) -> String {
    const NEVER: &str = "0001-01-01T00:00:00Z";
    if nanos <= 0 {
        return NEVER.to_owned();
    }
    jiff::Timestamp::from_nanosecond(nanos.into()).map_or_else(|_| NEVER.to_owned(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_oci::{Descriptor, Digest, ImageConfig};
    use strata_store::Origin;

    #[test]
    fn an_image_has_dockers_shape() {
        let text = r#"{"created":"2024-01-01T00:00:00Z","architecture":"arm64","variant":"v8","os":"linux",
            "config":{"Cmd":["sh"],"ExposedPorts":{"80/tcp":{}},"ArgsEscaped":true},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"comment":"why"}]}"#;
        let id = Digest::sha256_of(b"x");
        let layer = |key: &str| ImageLayer {
            diff_id: id.clone(),
            key: key.into(),
            size: 1,
            blob: Descriptor { media_type: String::new(), digest: id.clone(), size: 1 },
        };
        let image = Image {
            config: ImageConfig::parse(text.as_bytes()).unwrap(),
            layers: vec![layer("a"), layer("b"), layer("c")],
            repo_tags: vec!["docker.io/library/x:1".into()],
            repo_digests: vec![format!("docker.io/library/x@{id}")],
            size: 3,
            content_size: 3,
            origin: Origin::Pull,
            since: 1_700_000_000_000_000_000,
            manifest: Descriptor { media_type: "m".into(), digest: id.clone(), size: 9 },
            id: id.clone(),
        };
        let value = document(&image, &|l| format!("/l/{}", l.key));
        assert_eq!(value["Id"], id.as_str());
        assert_eq!(value["RepoTags"][0], "x:1");
        assert_eq!(value["RepoDigests"][0], format!("x@{id}"));
        assert_eq!(value["Variant"], "v8");
        assert_eq!(value["Comment"], "why");
        assert_eq!(value["GraphDriver"]["Data"], json!({ "LowerDir": "/l/b:/l/a", "UpperDir": "/l/c" }));
        assert_eq!(value["Config"]["Cmd"], json!(["sh"]));
        assert_eq!(value["Config"]["Entrypoint"], Value::Null);
        assert_eq!(value["Config"]["ExposedPorts"], json!({ "80/tcp": {} }));
        assert_eq!(value["Config"]["ArgsEscaped"], true);
        assert_eq!(value["Metadata"]["LastTagTime"], "2023-11-14T22:13:20Z");
        assert_eq!(time(0), "0001-01-01T00:00:00Z");
    }
}

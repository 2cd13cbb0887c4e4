//! What cannot be used is refused by name: the image, the layer, the entry. Nothing of it stays.

use super::*;

/// Serves an image of these layers under a tag; `config` may replace the config's text, `sizes` the layers' sizes.
pub(super) fn serve_image(
    rig: &Rig,
    tag: &str,
    layers: &[Vec<u8>],
    config: Option<String>,
    size: Option<u64>,
) -> Vec<Digest> {
    let diff_ids: Vec<_> = layers.iter().map(|tar| Digest::sha256_of(tar)).collect();
    let mut blobs: Vec<_> = layers.iter().map(|tar| rig.shelf.put("blobs", None, LAYER, tar)).collect();
    if let Some(size) = size {
        blobs.iter_mut().for_each(|blob| blob["size"] = json!(size));
    }
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = config
        .unwrap_or_else(|| json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string());
    let config = rig.shelf.put("blobs", None, OCI_CONFIG, config.as_bytes());
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": blobs }).to_string();
    rig.shelf.put("manifests", Some(tag), OCI_MANIFEST, manifest.as_bytes());
    diff_ids
}

impl Rig {
    /// Pulls what must be refused, with an error that names the image and these parts.
    async fn refuses(&self, tag: &str, kind: Kind, parts: &[&str]) {
        let e = self.pull(&format!("app:{tag}")).await.unwrap_err();
        let text = e.to_string();
        for part in parts.iter().chain([&format!("{}/app:{tag}", self.address).as_str()]) {
            assert!(text.contains(part), "{tag}: no {part:?} in: {text}");
        }
        assert_eq!(e.kind(), kind, "{tag}: {text}");
        assert_eq!(self.unfinished().await, Vec::<String>::new(), "{tag}");
        for dir in ["layers", "blobs/sha256", "refs"] {
            let left = std::fs::read_dir(self.dir.path().join(dir)).unwrap().count();
            assert_eq!(left, 0, "{tag}: left in {dir} by {text}");
        }
    }
}

#[tokio::test]
async fn an_entry_is_named_with_its_layer_and_image() {
    let Some(rig) = rig().await else { return };
    let out = tar("../../out");
    let id = serve_image(&rig, "out", std::slice::from_ref(&out), None, None);
    rig.refuses("out", Kind::DataLoss, &[id[0].as_str(), "entry \"../../out\"", "push"]).await;
    let mut cut = tar("cut");
    cut.truncate(2000);
    let id = serve_image(&rig, "cut", &[cut], None, None);
    rig.refuses("cut", Kind::DataLoss, &[id[0].as_str(), "entry \"cut\"", "ends"]).await;
}

#[tokio::test]
async fn good_layers_of_a_refused_image_do_not_stay() {
    let Some(rig) = rig().await else { return };
    let id = serve_image(&rig, "upper", &[tar("good"), tar("../../bad"), tar("also-good")], None, None);
    rig.refuses("upper", Kind::DataLoss, &[id[1].as_str(), "entry \"../../bad\""]).await;
}

#[tokio::test]
async fn documents_that_lie_or_are_too_much() {
    let Some(rig) = rig().await else { return };
    let layer = tar("f");
    let other = Digest::sha256_of(b"other");
    let rootfs = json!({ "type": "layers", "diff_ids": [other] });
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string();
    serve_image(&rig, "diff", std::slice::from_ref(&layer), Some(config), None);
    rig.refuses("diff", Kind::DataLoss, &[other.as_str(), "config says"]).await;

    let deep =
        format!("{{\"rootfs\":{{\"type\":\"layers\"}},\"x\":{}1{}}}", "[".repeat(40_000), "]".repeat(40_000));
    serve_image(&rig, "deep", std::slice::from_ref(&layer), Some(deep), None);
    rig.refuses("deep", Kind::FailedPrecondition, &["config", "recursion limit"]).await;
    let none = json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } }).to_string();
    serve_image(&rig, "fewer", std::slice::from_ref(&layer), Some(none), None);
    rig.refuses("fewer", Kind::DataLoss, &["names 0 layers"]).await;
    serve_image(&rig, "large", std::slice::from_ref(&layer), None, Some(3 << 40));
    rig.refuses("large", Kind::FailedPrecondition, &["layer 1", "limits.layer_size"]).await;
    let nested = format!("{{\"schemaVersion\":2,\"layers\":{}{}}}", "[".repeat(40_000), "]".repeat(40_000));
    rig.shelf.put("manifests", Some("nested"), OCI_MANIFEST, nested.as_bytes());
    rig.refuses("nested", Kind::FailedPrecondition, &["manifest"]).await;
    rig.shelf.put("manifests", Some("gigabytes"), OCI_MANIFEST, &vec![b' '; 64 << 20]);
    let e = rig.pull("app:gigabytes").await.unwrap_err().to_string();
    assert!(e.contains("app:gigabytes") && e.contains("4194304"), "{e}");
}

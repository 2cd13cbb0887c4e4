//! What was damaged on its way or on the disk is never taken for good.

use super::*;

impl Rig {
    fn blob(&self, digest: &Digest) -> std::path::PathBuf {
        self.dir.path().join("blobs/sha256").join(digest.hex())
    }

    /// An image of a layer whose blob stays here while its unpacked directory goes, as after a power cut; the blob's digest.
    /// The store is opened anew, and knows of the blob only that it is there.
    async fn with_a_blob_only(&mut self, file: &str) -> Digest {
        let blob = Digest::sha256_of(&tar(file));
        self.shelf.image(Some("v1"), "amd64", &[file, "b"]);
        self.pull("app:v1").await.unwrap();
        let key =
            self.images.store.resolve(&format!("{}/app:v1", self.address)).unwrap().layers[0].key.clone();
        // The only one that has the store open.
        let nothing = Store::open(tempfile::tempdir().unwrap().path(), Options::default()).unwrap();
        self.images = images(nothing);
        std::fs::remove_dir_all(self.dir.path().join("layers").join(key)).unwrap();
        self.images = images(Store::open(self.dir.path(), Options::default()).unwrap());
        self.shelf.seen.lock().unwrap().clear();
        blob
    }

    /// Every listed file is what the registry has.
    fn shows(&self, image: &Image, files: &[&str]) {
        for (layer, file) in image.layers.iter().zip(files) {
            let path = self.dir.path().join("layers").join(&layer.key).join("fs").join(file);
            assert_eq!(std::fs::read(path).unwrap(), file.as_bytes().repeat(100_000));
        }
    }
}

fn images(store: Arc<Store>) -> Arc<Images> {
    let config = config::Registry { config_path: "/nonexistent".into(), ..config::Registry::default() };
    Arc::new(Images::new(store, registry::Client::new(&config).unwrap(), &config))
}

type Damage = fn(&mut Vec<u8>);

#[tokio::test]
async fn a_blob_that_the_disk_has_damaged_is_fetched_again_and_once() {
    let damages: [Option<Damage>; 4] = [
        None,
        Some(|bytes| bytes.truncate(bytes.len() / 2)),
        Some(|bytes| bytes[600] ^= 1),
        Some(|bytes| bytes.extend_from_slice(&[0; 512])),
    ];
    // Blobs of more than a MiB are not compared with their digest before they are unpacked.
    for (file, damage) in ["a", "longer-than-a-MiB"].iter().flat_map(|file| damages.map(|d| (*file, d))) {
        let Some(mut rig) = rig().await else { return };
        let blob = rig.with_a_blob_only(file).await;
        if let Some(damage) = damage {
            let mut bytes = std::fs::read(rig.blob(&blob)).unwrap();
            damage(&mut bytes);
            std::fs::write(rig.blob(&blob), bytes).unwrap();
        }
        let image = rig.pull("app:v1").await.unwrap().image;
        assert_eq!(rig.shelf.seen(blob.as_str()), usize::from(damage.is_some()), "{damage:?}");
        assert_eq!(std::fs::read(rig.blob(&blob)).unwrap(), tar(file));
        rig.shows(&image, &[file, "b"]);
        assert_eq!(rig.unfinished().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_damaged_blob_that_nobody_has_any_more_ends_the_pull() {
    let Some(mut rig) = rig().await else { return };
    let blob = rig.with_a_blob_only("longer-than-a-MiB").await;
    let mut bytes = std::fs::read(rig.blob(&blob)).unwrap();
    bytes[600] ^= 1;
    std::fs::write(rig.blob(&blob), &bytes).unwrap();
    let key = format!("blobs/{blob}");
    // The registry's own copy is damaged alike, or gone.
    let good = rig.shelf.things.lock().unwrap().insert(key.clone(), (LAYER.into(), bytes)).unwrap();
    let e = rig.pull("app:v1").await.unwrap_err();
    assert_eq!(e.kind(), Kind::DataLoss, "{e}");
    assert!(e.to_string().contains(blob.as_str()) && e.to_string().contains("/app:v1"), "{e}");
    assert!(!rig.blob(&blob).exists(), "bad bytes have no name");
    rig.shelf.things.lock().unwrap().remove(&key);
    let e = rig.pull("app:v1").await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    assert!(rig.shelf.seen(blob.as_str()) <= 3, "it is not asked for again and again");
    assert_eq!(rig.unfinished().await, Vec::<String>::new());
    rig.shelf.things.lock().unwrap().insert(key, good);
    rig.shows(&rig.pull("app:v1").await.unwrap().image, &["longer-than-a-MiB", "b"]);
}

#[tokio::test]
async fn an_image_that_shares_a_layer_whose_blob_is_damaged_is_pulled_and_stays_repairable() {
    let Some(rig) = rig().await else { return };
    rig.shelf.image(Some("v1"), "amd64", &["a", "shared"]);
    rig.shelf.image(Some("v2"), "amd64", &["b", "shared"]);
    rig.pull("one:v1").await.unwrap();
    let shared = Digest::sha256_of(&tar("shared"));
    std::fs::write(rig.blob(&shared), &tar("shared")[..1000]).unwrap();
    // The layer itself is good, and nothing is unpacked from its blob.
    let image = rig.pull("two:v2").await.unwrap().image;
    rig.shows(&image, &["b", "shared"]);
    let lease = Arc::new(rig.images.store.lease("test").unwrap());
    rig.images.refetch(&lease, &image.layers[1].blob, None).await.unwrap();
    assert_eq!(std::fs::read(rig.blob(&shared)).unwrap(), tar("shared"));
}

#[tokio::test]
async fn a_damaged_layer_and_a_foreign_image_are_refused() {
    let Some(rig) = rig().await else { return };
    rig.shelf.image(Some("v1"), "amd64", &["a", "b"]);
    let good = tar("b");
    let damaged = {
        let mut bytes = good.clone();
        bytes[600] ^= 1;
        bytes
    };
    let key = format!("blobs/{}", Digest::sha256_of(&good));
    rig.shelf.things.lock().unwrap().insert(key.clone(), (LAYER.into(), damaged));
    let e = rig.pull("app:v1").await.unwrap_err();
    assert_eq!(e.kind(), Kind::DataLoss, "{e}");
    let (digest, text) = (Digest::sha256_of(&good), e.to_string());
    assert!(text.contains(digest.as_str()) && text.contains("/app:v1") && text.contains("push"), "{text}");
    assert!(rig.images.store.images().is_empty());
    rig.shelf.things.lock().unwrap().insert(key, (LAYER.into(), good));
    rig.pull("app:v1").await.unwrap();

    rig.shelf.image(Some("v2"), "s390x", &["a"]);
    let e = rig.pull("app:v2").await.unwrap_err();
    assert_eq!(e.kind(), Kind::FailedPrecondition, "{e}");
    assert!(e.to_string().contains("linux/s390x"), "{e}");
    let e = rig.pull("app:v3").await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    assert_eq!(rig.pull("Not a name").await.unwrap_err().kind(), Kind::InvalidArgument);
}

#[tokio::test]
async fn a_lost_blob_is_fetched_again_from_where_its_image_came_from() {
    let Some(rig) = rig().await else { return };
    let mut entry = rig.shelf.image(None, "amd64", &["a", "b"]);
    entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] }).to_string();
    rig.shelf.put("manifests", Some("v1"), OCI_INDEX, index.as_bytes());
    let image = rig.pull("app:v1").await.unwrap().image;
    let store = Arc::clone(&rig.images.store);
    let lease = Arc::new(store.lease("test").unwrap());
    let config = strata_oci::Descriptor {
        media_type: OCI_CONFIG.into(),
        digest: image.id.clone(),
        size: store.read_blob(&image.id, 1 << 20).unwrap().len() as u64,
    };
    let pulled = Digest::sha256_of(index.as_bytes());
    let index = strata_oci::Descriptor { media_type: OCI_INDEX.into(), digest: pulled, size: 0 };
    let blobs = [image.layers[1].blob.clone(), config, image.manifest.clone(), index];
    for blob in &blobs {
        let path = rig.dir.path().join("blobs/sha256").join(blob.digest.hex());
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, b"damaged").unwrap();
        rig.images.refetch(&lease, blob, None).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), good, "{}", blob.media_type);
    }
    assert_eq!(rig.unfinished().await, Vec::<String>::new());

    rig.shelf.things.lock().unwrap().clear();
    let e = rig.images.refetch(&lease, &blobs[0], None).await.unwrap_err();
    assert_eq!(e.kind(), Kind::NotFound, "{e}");
    assert!(e.to_string().contains(&format!("{}/app", rig.address)), "{e}");
    let unknown = strata_oci::Descriptor { digest: Digest::sha256_of(b"?"), ..blobs[0].clone() };
    let e = rig.images.refetch(&lease, &unknown, None).await.unwrap_err();
    assert_eq!(e.kind(), Kind::FailedPrecondition, "{e}");
    assert!(e.to_string().contains("pull, load or build"), "{e}");
}

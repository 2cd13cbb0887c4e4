//! Images made of tars that the tests write entry by entry.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    unreachable_pub
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strata_oci::config::{Execution, History, RootFs};
use strata_oci::document::{OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST};
use strata_oci::{Descriptor, Digest, ImageConfig, Manifest, Reference};
use strata_store::{Image, LayerSource, Lease, NewImage, Options, Origin, Result, Store};
use strata_sys::mount::{Attrs, Overlay};
use strata_sys::path::{Root, fd_path};

/// Whether this machine can run the test; says so if not.
pub fn privileged() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// Gives the calling thread, and what it starts, mounts that nobody else sees and that end with it.
pub fn private_mounts() {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
}

/// A tar, entry by entry.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn raw(
        mut self,
        kind: tar::EntryType,
        path: &str,
        mode: u32,
        data: &[u8],
        link: &str,
        owner: u64,
    ) -> Self {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_mode(mode);
        h.set_uid(owner);
        h.set_gid(owner);
        h.set_mtime(1_600_000_000);
        h.set_size(data.len() as u64);
        // Hostile names must come through as they are.
        h.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        h.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        h.set_cksum();
        self.0.append(&h, data).unwrap();
        self
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.raw(tar::EntryType::Directory, path, mode, b"", "", 0)
    }

    pub fn file(self, path: &str, data: &str) -> Self {
        self.raw(tar::EntryType::Regular, path, 0o644, data.as_bytes(), "", 0)
    }

    pub fn owned(self, path: &str, mode: u32, owner: u64) -> Self {
        self.raw(tar::EntryType::Regular, path, mode, b"x", "", owner)
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(tar::EntryType::Symlink, path, 0o777, b"", target, 0)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.raw(tar::EntryType::Link, path, 0o644, b"", target, 0)
    }

    pub fn node(self, path: &str, kind: tar::EntryType) -> Self {
        self.raw(kind, path, 0o644, b"", "", 0)
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

pub fn open(dir: &Path) -> Arc<Store> {
    Store::open(&dir.join("store"), Options::default()).unwrap()
}

pub fn layer_of(tar: &[u8]) -> (Vec<u8>, Descriptor, Digest) {
    let blob = gzip(tar);
    let descriptor = Descriptor {
        media_type: OCI_LAYER_GZIP.into(),
        digest: Digest::sha256_of(&blob),
        size: blob.len() as u64,
    };
    (blob, descriptor, Digest::sha256_of(tar))
}

/// Pulls an image of these layers, as the daemon would.
pub fn pull(store: &Store, name: &str, tars: &[Vec<u8>]) -> Result<Arc<Image>> {
    let lease = store.lease("test")?;
    pull_for(store, &lease, name, tars)
}

/// The same for an operation that goes on, or is ended.
pub fn pull_for(store: &Store, lease: &Lease, name: &str, tars: &[Vec<u8>]) -> Result<Arc<Image>> {
    let (mut layers, mut diff_ids, mut history) = (Vec::new(), Vec::new(), Vec::new());
    for (n, tar) in tars.iter().enumerate() {
        let (blob, descriptor, diff_id) = layer_of(tar);
        if !store.has_layer(lease, &diff_id) {
            let source = LayerSource { blob: &descriptor, diff_id: &diff_id };
            store.ingest_layer(lease, source, &mut blob.as_slice(), &|_| {})?;
        }
        history.push(History { created_by: format!("step {n} of {diff_id}"), ..History::default() });
        layers.push(descriptor);
        diff_ids.push(diff_id);
    }
    let config = ImageConfig {
        os: "linux".into(),
        architecture: "amd64".into(),
        created: Some("2024-05-01T10:00:00Z".into()),
        config: Execution { cmd: vec!["/bin/sh".into()], ..Execution::default() },
        rootfs: RootFs { diff_ids, ..RootFs::default() },
        history,
        ..ImageConfig::default()
    };
    let config = config.to_json();
    let id = store.put_blob(lease, &config)?;
    let config = Descriptor { media_type: OCI_CONFIG.into(), digest: id, size: config.len() as u64 };
    let manifest = Manifest { config, layers }.to_json();
    let pulled = Some(Digest::sha256_of(&manifest));
    let names = vec![Reference::parse(name).unwrap()];
    let media_type = OCI_MANIFEST.into();
    store.commit_image(
        lease,
        &NewImage { media_type, manifest: &manifest, names, pulled, origin: Origin::Pull },
    )
}

/// A container's root file system, mounted as long as this lives.
pub struct Mounted(Root);

impl Mounted {
    pub fn path(&self) -> PathBuf {
        fd_path(&self.0)
    }

    pub fn read(&self, path: &str) -> Option<String> {
        self.0.read_to_string(path, 1 << 20).ok()
    }
}

pub fn container(store: &Store, n: u8, image: &Image) -> (String, Mounted) {
    let id = format!("{n:02x}").repeat(32);
    let lease = store.lease("test").unwrap();
    store.create_snapshot(&lease, &id, image).unwrap();
    store.put_container(&id, b"{\"name\":\"test\"}").unwrap();
    let mounted = mount(store, &id);
    (id, mounted)
}

pub fn mount(store: &Store, id: &str) -> Mounted {
    let s = store.snapshot(id).unwrap();
    let overlay =
        Overlay { lowers: &s.lowers, upper: Some((&s.upper, &s.work)), volatile: false, label: None };
    Mounted(Root::from_fd(overlay.mount(Attrs::default()).unwrap()))
}

/// A new container's root file system without what the runtime adds below the image.
pub fn mount_bare(store: &Store, n: u8, image: &Image) -> Root {
    let id = format!("{n:02x}").repeat(32);
    let lease = store.lease("test").unwrap();
    let s = store.create_snapshot(&lease, &id, image).unwrap();
    store.put_container(&id, b"{\"name\":\"test\"}").unwrap();
    let lowers = &s.lowers[..s.lowers.len() - 1];
    let overlay = Overlay { lowers, upper: Some((&s.upper, &s.work)), volatile: false, label: None };
    Root::from_fd(overlay.mount(Attrs::default()).unwrap())
}

pub fn layers_on_disk(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("store/layers")).unwrap().count()
}

pub fn assert_tidy(dir: &Path) {
    for name in ["tmp", "trash"] {
        // Deleting is in the background, and whoever else works comes first.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let left = || std::fs::read_dir(dir.join("store").join(name)).unwrap().collect::<Vec<_>>();
        while !left().is_empty() {
            assert!(std::time::Instant::now() < until, "{name}: {:?}", left());
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

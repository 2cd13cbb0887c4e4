//! Any bytes as the upper layer of an image: they are refused or unpacked, and either way nothing outside the store changes
//! and nothing is left over. Headers get right checksums first, or nearly all inputs would be refused for them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use strata_oci::config::RootFs;
use strata_oci::document::{OCI_CONFIG, OCI_MANIFEST};
use strata_oci::{Descriptor, Digest, ImageConfig, Manifest, Reference};
use strata_store::{Kind, LayerSource, Limits, NewImage, Options, Origin, Result, Store};

const BLOCK: usize = 512;

/// A store with a bystander.
struct Rig {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    base: Vec<u8>,
    before: BTreeMap<PathBuf, (u64, u32, i64, i64, u64)>,
}

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        std::process::exit(0);
    }
    // Below TMPDIR, which whoever starts this removes: a fuzzer does not end by returning. Best in memory, for syncs.
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("beside")).expect("a directory");
    fs::write(dir.path().join("beside/canary"), "canary").expect("a file");
    let limits =
        Limits { layer_size: 4 << 20, image_size: 16 << 20, layer_entries: 1000, ..Limits::default() };
    let store =
        Store::open(&dir.path().join("store"), Options { limits, ..Options::default() }).expect("a store");
    let before = outside(dir.path());
    Rig { store, base: base(), before, dir }
});

/// Everything but the store.
fn outside(dir: &Path) -> BTreeMap<PathBuf, (u64, u32, i64, i64, u64)> {
    let names = |dir: &Path| fs::read_dir(dir).expect("readable").map(|e| e.expect("an entry").path());
    let mut all: Vec<PathBuf> = names(dir).chain(names(&dir.join("beside"))).collect();
    all.retain(|path| !path.ends_with("store"));
    all.into_iter()
        .map(|path| {
            let m = fs::symlink_metadata(&path).expect("there");
            (path, (m.ino(), m.mode(), m.ctime(), m.ctime_nsec(), m.size()))
        })
        .collect()
}

/// What lies below: a directory, a symlink to it and out of the root, a file with two names.
fn base() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, path: &str, link: &str, data: &[u8]| {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        h.set_mode(0o755);
        (h.set_uid(0), h.set_gid(0), h.set_mtime(1), h.set_size(data.len() as u64));
        h.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        h.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        h.set_cksum();
        tar.append(&h, data).expect("in memory");
    };
    use tar::EntryType as T;
    add(T::Directory, "d/", "", b"");
    add(T::Regular, "d/f", "", b"lower");
    add(T::Link, "h", "d/f", b"");
    add(T::Symlink, "s", "d", b"");
    add(T::Symlink, "o", "../../../../beside", b"");
    tar.into_inner().expect("in memory")
}

/// Gives every header its right checksum.
fn mend(data: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = data.get_mut(at..at + BLOCK) {
        if block.iter().any(|b| *b != 0) {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
            at += header
                .entry_size()
                .map_or(0, |n| usize::try_from(n).unwrap_or(0).min(data.len()))
                .next_multiple_of(BLOCK);
        }
        at += BLOCK;
    }
}

fn pull(store: &Store, tars: &[&[u8]]) -> Result<()> {
    let lease = store.lease("fuzz")?;
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for tar in tars {
        let diff_id = Digest::sha256_of(tar);
        let media_type = "application/vnd.oci.image.layer.v1.tar".into();
        let blob = Descriptor { media_type, digest: diff_id.clone(), size: tar.len() as u64 };
        if !store.has_layer(&lease, &diff_id) {
            let source = LayerSource { blob: &blob, diff_id: &diff_id };
            store.ingest_layer(&lease, source, &mut &tar[..], &|_| {})?;
        }
        layers.push(blob);
        diff_ids.push(diff_id);
    }
    let rootfs = RootFs { diff_ids, ..RootFs::default() };
    let config = ImageConfig { os: "linux".into(), rootfs, ..ImageConfig::default() }.to_json();
    let digest = store.put_blob(&lease, &config)?;
    let config = Descriptor { media_type: OCI_CONFIG.into(), digest, size: config.len() as u64 };
    let manifest = Manifest { config, layers }.to_json();
    let names = vec![Reference::parse("fuzz").expect("a reference")];
    let new = NewImage {
        media_type: OCI_MANIFEST.into(),
        manifest: &manifest,
        names,
        pulled: Some(Digest::sha256_of(&manifest)),
        origin: Origin::Pull,
    };
    store.commit_image(&lease, &new).map(|_| ())
}

fuzz_target!(|data: &[u8]| {
    let rig = &*RIG;
    let mut data = data.to_vec();
    mend(&mut data);
    match pull(&rig.store, &[&rig.base, &data]) {
        Ok(()) => {}
        // What the kernel refuses is the layer's fault too; a damaged store would be ours.
        Err(e) => assert!(matches!(e.kind(), Kind::Invalid | Kind::Limit | Kind::Io), "{e}"),
    }
    assert_eq!(outside(rig.dir.path()), rig.before, "something outside the store changed");
    let tmp: Vec<_> = fs::read_dir(rig.dir.path().join("store/tmp")).expect("tmp").collect();
    assert!(tmp.is_empty(), "{tmp:?}");
    rig.store.gc(false).expect("a whole store");
});

//! Streams: compressed wrongly, too well or not to the end; other than they were announced.

use crate::common::gzip;
use crate::raw::Raw;
use crate::rig::{GZIP, Rig, TAR, ZSTD, descriptor, ingest};
use std::io::Read;
use strata_oci::{Descriptor, Digest};
use strata_store::{Kind, Limits};

/// A source that tells how much of it was read.
struct Counted<'a>(&'a [u8], usize);

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(out)?;
        self.1 += n;
        Ok(n)
    }
}

impl Rig {
    /// Bytes that are what their descriptor says, and must be refused all the same.
    fn refuses_blob(
        &self,
        what: &str,
        media_type: &str,
        blob: &[u8],
        tar: &[u8],
        kind: Kind,
        parts: &[&str],
    ) {
        let told = descriptor(media_type, blob);
        self.refuses_as(what, &told, blob, &Digest::sha256_of(tar), kind, parts);
    }

    fn refuses_as(
        &self,
        what: &str,
        told: &Descriptor,
        blob: &[u8],
        diff_id: &Digest,
        kind: Kind,
        parts: &[&str],
    ) {
        let error = self.refused(what, |store| ingest(store, told, diff_id, &mut &blob[..]));
        let text = error.to_string();
        for part in parts.iter().chain([&told.digest.as_str()]) {
            assert!(text.contains(part), "{what}: no {part:?} in: {text}");
        }
        assert_eq!(error.kind(), kind, "{what}: {text}");
    }
}

/// Bytes that do not compress.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..n).map(|_| next()).collect()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

#[test]
fn what_is_not_as_announced() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let tar = Raw::new().file(b"f", &noise(200_000)).done();
    let (blob, diff_id) = (gzip(&tar), Digest::sha256_of(&tar));
    let told = descriptor(GZIP, &blob);
    let refuses = |what: &str, told: &Descriptor, blob: &[u8], diff_id: &Digest, parts: &[&str]| {
        rig.refuses_as(what, told, blob, diff_id, Kind::Invalid, parts);
    };
    let mut flipped = blob.clone();
    flipped[blob.len() / 2] ^= 1;
    refuses("another digest", &told, &flipped, &diff_id, &["bytes have the digest"]);
    refuses("too short", &told, &blob[..blob.len() - 1], &diff_id, &["its manifest says"]);
    refuses("nothing", &told, b"", &diff_id, &["0 bytes", "its manifest says"]);
    refuses("too long", &told, &[&blob[..], b"x"].concat(), &diff_id, &["more than"]);
    let other = Digest::sha256_of(b"other");
    refuses("another diff ID", &told, &blob, &other, &[other.as_str(), diff_id.as_str()]);
    let html = Descriptor { media_type: "text/html".into(), ..told.clone() };
    let error = rig.refused("no layer", |store| ingest(store, &html, &diff_id, &mut &blob[..]));
    assert!(error.to_string().contains("text/html"), "{error}");
    ingest(&rig.store, &told, &diff_id, &mut &blob[..]).unwrap();
}

#[test]
fn streams_that_are_broken() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let tar = Raw::new().file(b"first", b"x").file(b"second", &noise(500_000)).done();
    let (gz, zs) = (gzip(&tar), zstd(&tar));
    let mut sum = gz.clone();
    let at = sum.len() - 6;
    sum[at] ^= 1;
    for (what, media_type, blob, parts) in [
        ("gzip, cut", GZIP, gz[..gz.len() / 2].to_vec(), &["decompress", "\"second\""][..]),
        ("gzip, with a wrong sum", GZIP, sum, &["decompress"]),
        ("gzip, garbage after it", GZIP, [&gz[..], b"garbage"].concat(), &["decompress"]),
        ("gzip, half a member after it", GZIP, [&gz[..], &gz[..100]].concat(), &["decompress"]),
        ("no gzip at all", GZIP, tar.clone(), &["decompress"]),
        ("an empty gzip blob", GZIP, Vec::new(), &["decompress"]),
        ("zstd, cut", ZSTD, zs[..zs.len() / 2].to_vec(), &["decompress", "\"second\""]),
        ("zstd, garbage after it", ZSTD, [&zs[..], b"garbage"].concat(), &["decompress"]),
        ("zstd called gzip", GZIP, zs.clone(), &["decompress"]),
        ("gzip called a tar", TAR, gz.clone(), &["first entry", "checksum"]),
    ] {
        rig.refuses_blob(what, media_type, &blob, &tar, Kind::Invalid, parts);
    }
    // A second archive behind the first is what some programs would read and others not.
    for behind in [&b"garbage"[..], &tar, &[&[0; 40_000][..], b"late"].concat()] {
        let whole = [&tar[..], behind].concat();
        let parts = ["after entry \"second\"", "garbage follows its end"];
        for (media_type, blob) in [(TAR, whole.clone()), (GZIP, gzip(&whole)), (ZSTD, zstd(&whole))] {
            rig.refuses_blob("behind the end marker", media_type, &blob, &whole, Kind::Invalid, &parts);
        }
    }
}

#[test]
fn bombs() {
    let limits =
        Limits { compression_ratio: 100, ratio_floor: 1 << 20, layer_size: 64 << 20, ..Limits::default() };
    let Some(rig) = Rig::new(limits) else { return };
    let zeros = |n: usize| Raw::new().file(b"zeros", &vec![0; n]).done();
    let tar = zeros(16 << 20);
    for (media_type, blob) in [(GZIP, gzip(&tar)), (ZSTD, zstd(&tar))] {
        let parts = ["bomb", "limits.compression_ratio is 100", "entry \"zeros\""];
        rig.refuses_blob("ratio", media_type, &blob, &tar, Kind::Limit, &parts);
    }
    // Where the stream ends in a bomb, only the entry that it was in can be told, or that it came after.
    let trailing = [&Raw::new().file(b"f", b"").done()[..], &vec![0; 16 << 20]].concat();
    rig.refuses_blob("in what follows the end", GZIP, &gzip(&trailing), &trailing, Kind::Limit, &["bomb"]);
    let small = zeros(1 << 19);
    ingest(&rig.store, &descriptor(GZIP, &gzip(&small)), &Digest::sha256_of(&small), &mut &gzip(&small)[..])
        .unwrap();
    rig.store.gc(false).unwrap();
    let honest = Raw::new().file(b"noise", &noise(3 << 20)).done();
    ingest(
        &rig.store,
        &descriptor(ZSTD, &zstd(&honest)),
        &Digest::sha256_of(&honest),
        &mut &zstd(&honest)[..],
    )
    .unwrap();
}

#[test]
fn sizes() {
    let limits = Limits { layer_size: 4 << 20, image_size: 6 << 20, ..Limits::default() };
    let Some(rig) = Rig::new(limits) else { return };
    let tar = |name: &[u8], n: usize| Raw::new().file(name, &noise(n)).done();
    let large = tar(b"large", 5 << 20);
    rig.refuses_blob(
        "uncompressed",
        ZSTD,
        &zstd(&vec![0; 5 << 20]),
        &[],
        Kind::Limit,
        &["limits.layer_size"],
    );
    rig.refuses_blob("compressed", GZIP, &gzip(&large), &large, Kind::Limit, &["limits.layer_size"]);
    // One of terabytes is not even begun with, and one that turns out to be too large is not read to its end.
    let told = Descriptor { size: 3 << 40, ..descriptor(TAR, &large) };
    let mut source = Counted(&large, 0);
    rig.refused("announced", |store| ingest(store, &told, &Digest::sha256_of(&large), &mut source));
    assert_eq!(source.1, 0);
    let refused = rig.refused("all layers together", |store| {
        let layers = [tar(b"a", 3 << 20), tar(b"b", 2 << 20), tar(b"c", 2 << 20)];
        crate::common::pull(store, "bad", &layers).map(|_| ())
    });
    let text = refused.to_string();
    assert!(text.contains("limits.image_size") && refused.kind() == Kind::Limit, "{text}");
    // What is here already counts too.
    let lease = rig.store.lease("test").unwrap();
    for name in [b"a", b"b", b"c"] {
        let tar = tar(name, 3 << 20);
        ingest(&rig.store, &descriptor(TAR, &tar), &Digest::sha256_of(&tar), &mut &tar[..]).unwrap();
        assert!(rig.store.has_layer(&lease, &Digest::sha256_of(&tar)));
    }
    let layers = [b"a", b"b", b"c"].map(|name| tar(name, 3 << 20));
    let error = crate::common::pull(&rig.store, "bad", &layers).unwrap_err();
    assert!(error.to_string().contains("limits.image_size"), "{error}");
    assert!(rig.store.images().is_empty());
}

#[test]
fn a_failed_attempt_does_not_count_twice() {
    let limits = Limits { image_size: 3 << 20, ..Limits::default() };
    let Some(rig) = Rig::new(limits) else { return };
    let tar = Raw::new().file(b"f", &noise(2 << 20)).done();
    let lease = rig.store.lease("test").unwrap();
    let (blob, diff_id) = (descriptor(TAR, &tar), Digest::sha256_of(&tar));
    let source = strata_store::LayerSource { blob: &blob, diff_id: &diff_id };
    for cut in [tar.len() - 1, tar.len() - 2] {
        rig.store.ingest_layer(&lease, source, &mut &tar[..cut], &|_| {}).unwrap_err();
    }
    rig.store.ingest_layer(&lease, source, &mut &tar[..], &|_| {}).unwrap();
}

#[test]
fn windows_of_zstd() {
    let Some(rig) = Rig::new(Limits { zstd_window_log: 20, ..Limits::default() }) else { return };
    let tar = Raw::new().file(b"f", &noise(5 << 20)).done();
    let with_window = |log: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.long_distance_matching(true).unwrap();
        std::io::copy(&mut &tar[..], &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    rig.refuses_blob(
        "wide",
        ZSTD,
        &with_window(24),
        &tar,
        Kind::Limit,
        &["decompress", "16777216", "limits.zstd_window_log"],
    );
    let blob = with_window(20);
    ingest(&rig.store, &descriptor(ZSTD, &blob), &Digest::sha256_of(&tar), &mut &blob[..]).unwrap();
}

#[test]
fn odd_but_whole() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let tar = Raw::new().file(b"f", &noise(100_000)).done();
    // Zeros behind the end marker fill an archive up, and belong to the digest.
    let trailing = [&tar[..], &[0; 10_000]].concat();
    let (left, right) = tar.split_at(50_000);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(left), &zstd(right)].concat();
    for (media_type, blob, tar) in [
        (GZIP, [gzip(left), gzip(right)].concat(), &tar[..]),
        (GZIP, gzip(&trailing), &trailing),
        (ZSTD, skippable, &tar),
        (TAR, trailing.clone(), &trailing),
        (GZIP, gzip(&[0; 1024]), &[0; 1024]),
        (GZIP, gzip(b""), b""),
        (ZSTD, zstd(b""), b""),
        (TAR, Vec::new(), b""),
    ] {
        ingest(&rig.store, &descriptor(media_type, &blob), &Digest::sha256_of(tar), &mut &blob[..]).unwrap();
        rig.store.gc(false).unwrap();
    }
}

//! Sparse files as GNU tar writes them, in each of its formats: the content is right, and holes stay holes.

use crate::raw::Raw;
use crate::rig::{Rig, blocks};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use strata_store::{Kind, Limits};
use tar::EntryType as T;

/// Holes at the beginning, between and at the end; one file of nothing but a hole, and one with many.
fn make_files(dir: &Path) {
    let file = File::create(dir.join("holes")).unwrap();
    file.write_all_at(b"near", 1 << 20).unwrap();
    file.write_all_at(&[7; 5000], 40 << 20).unwrap();
    file.set_len(64 << 20).unwrap();
    File::create(dir.join("all-hole")).unwrap().set_len((16 << 20) + 13).unwrap();
    let many = File::create(dir.join("many")).unwrap();
    for n in 0..300_u64 {
        many.write_all_at(&[u8::try_from(n % 251).unwrap() + 1; 100], n * 65536).unwrap();
    }
    fs::write(dir.join("plain"), "no holes").unwrap();
    fs::write(dir.join(format!("{}-long", "n".repeat(180))), "a name beyond the old header").unwrap();
    let long = File::create(dir.join(format!("{}-long-sparse", "n".repeat(180)))).unwrap();
    long.write_all_at(b"end", 8 << 20).unwrap();
}

#[test]
fn every_format_of_gnu_tar() {
    for format in ["gnu", "posix 0.0", "posix 0.1", "posix 1.0"] {
        let Some(rig) = Rig::new(Limits::default()) else { return };
        let from = tempfile::tempdir().unwrap();
        make_files(from.path());
        let (format, version) = format.split_once(' ').unwrap_or((format, "1.0"));
        let out = Command::new("tar")
            .args(["--create", "--sparse", "--format", format, "--sparse-version", version, "--directory"])
            .arg(from.path())
            .arg(".")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(out.stdout.len() < 4 << 20, "GNU tar wrote the holes out");
        let fs_dir = rig.takes(&out.stdout);
        let mut names: Vec<_> = fs::read_dir(&fs_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let mut wanted: Vec<_> = fs::read_dir(from.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        wanted.sort();
        assert_eq!(names, wanted, "{format} {version}");
        let mut on_disk = 0;
        for name in names {
            let (got, from) = (fs_dir.join(&name), from.path().join(&name));
            assert!(fs::read(&got).unwrap() == fs::read(&from).unwrap(), "{format} {version}: {name:?}");
            let (a, b) = (blocks(&got), blocks(&from));
            assert!(a <= b + 64, "{format} {version}: {name:?} takes {a} blocks of 512, not {b}");
            assert_eq!(fs::metadata(&got).unwrap().mtime(), fs::metadata(&from).unwrap().mtime());
            on_disk += a * 512;
        }
        let record: String = fs::read_to_string(fs_dir.with_file_name("layer.json")).unwrap();
        let disk = record.split("\"disk\":").nth(1).unwrap().split([',', '}']).next().unwrap().trim();
        let disk: u64 = disk.parse().unwrap();
        assert!(
            disk >= on_disk && disk < on_disk + (1 << 20),
            "holes are not accounted for: {disk}, {on_disk}"
        );
    }
}

#[test]
fn maps_that_lie() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let pax =
        |records: &[(&str, &[u8])], data: &[u8]| Raw::new().pax(records).file(b"GNUSparseFile.0/f", data);
    let one = |map: &'static [u8], size: &'static [u8], data: &[u8]| {
        pax(&[("GNU.sparse.name", b"f"), ("GNU.sparse.size", size), ("GNU.sparse.map", map)], data)
    };
    let front = |size: &'static [u8], data: &[u8]| {
        let major: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", size),
        ];
        pax(&major, data)
    };
    let block = |text: &str| {
        let mut block = text.as_bytes().to_vec();
        block.resize(512, 0);
        block
    };
    for (what, raw, part) in [
        ("beyond the end", one(b"90,20", b"100", &[1; 20]), "overlaps"),
        ("overlapping", one(b"0,10,5,10", b"100", &[1; 20]), "overlaps"),
        ("backwards", one(b"50,10,0,10", b"100", &[1; 20]), "overlaps"),
        ("wrapping", one(b"9223372036854775807,9223372036854775807", b"100", &[1; 20]), "overlaps"),
        ("less data", one(b"0,30", b"100", &[1; 20]), "the archive has 20"),
        ("more data", one(b"0,10", b"100", &[1; 20]), "the archive has 20"),
        ("half a pair", one(b"0,10,5", b"100", &[1; 10]), "offset"),
        ("negative", one(b"0,-1", b"100", &[1; 10]), "map cannot be"),
        ("no size", pax(&[("GNU.sparse.map", b"0,1")], b"x"), "without a size"),
        ("no data for the map", front(b"100", b"1\n0\n"), "longer than its data"),
        ("a count that lies", front(b"100", &block("3\n0\n10\n")), "longer than its data"),
        ("no numbers", front(b"100", &block("x\n")), "broken map"),
        ("billions of pairs", front(b"100", &block("9999999999\n0\n0\n")), "map"),
    ] {
        rig.refuses(what, &raw.done(), Kind::Invalid, &["entry", part]);
    }
    let directory = Raw::new().pax(&[("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"0,0")]).entry(
        T::Directory,
        b"d",
        b"",
    );
    rig.refuses("no file", &directory.done(), Kind::Invalid, &["\"d\"", "only a regular file"]);
    let out = pax(
        &[("GNU.sparse.name", b"../beside/canary"), ("GNU.sparse.size", b"1"), ("GNU.sparse.map", b"0,1")],
        b"x",
    );
    rig.refuses("a name that leads out", &out.done(), Kind::Invalid, &["../beside/canary", "leaves"]);
}

//! Entries: one that is not taken is named, and so is its layer.

use crate::common::{Tar, pull};
use crate::raw::Raw;
use crate::rig::Rig;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use strata_store::{Kind, Limits};
use tar::EntryType as T;

type Case = (&'static str, Raw, &'static [&'static str]);

fn check(cases: Vec<Case>) {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    for (what, raw, parts) in cases {
        rig.refuses(what, &raw.done(), Kind::Invalid, parts);
    }
}

/// A field of the old header.
fn field(at: usize, bytes: &'static [u8]) -> impl FnOnce(&mut tar::Header) {
    move |h| h.as_mut_bytes()[at..at + bytes.len()].copy_from_slice(bytes)
}

#[test]
fn paths_that_lead_nowhere() {
    let long = [&[b'a'; 200][..], b"/"].concat().repeat(21);
    let thirty: Raw = (0..30).fold(Raw::new(), |raw, n| {
        raw.link(T::Symlink, format!("l{n}").as_bytes(), format!("l{0}/../l{0}", n + 1).as_bytes())
    });
    check(vec![
        ("up", Raw::new().file(b"../outside", b"x"), &["../outside", "leaves"]),
        ("up later", Raw::new().file(b"a/./../../outside", b"x"), &["a/./../../outside", "leaves"]),
        ("absolute and up", Raw::new().file(b"/../outside", b"x"), &["/../outside"]),
        ("hard link out", Raw::new().link(T::Link, b"h", b"../beside/canary"), &["entry \"h\"", "leaves"]),
        (
            "hard link to a directory",
            Raw::new().entry(T::Directory, b"d", b"").link(T::Link, b"h", b"d"),
            &["\"h\""],
        ),
        ("hard link to nothing", Raw::new().link(T::Link, b"h", b""), &["\"h\"", "target"]),
        ("hard link to the root", Raw::new().link(T::Link, b"h", b"./"), &["\"h\"", "root"]),
        ("symlink to nothing", Raw::new().link(T::Symlink, b"s", b""), &["\"s\"", "target"]),
        ("symlink loop", Raw::new().link(T::Symlink, b"l", b"l").file(b"l/x", b""), &["\"l/x\"", "symlinks"]),
        (
            "two that loop",
            Raw::new().link(T::Symlink, b"a", b"b").link(T::Symlink, b"b", b"a").file(b"a/x", b""),
            &["\"a/x\""],
        ),
        ("symlinks that double", thirty.file(b"l0/x", b""), &["\"l0/x\"", "symlinks"]),
        ("through a file", Raw::new().file(b"f", b"").file(b"f/x", b""), &["\"f/x\"", "no directory"]),
        ("a file as the root", Raw::new().file(b".", b"x"), &["root must be a directory"]),
        ("no name", Raw::new().file(b"", b"x"), &["root must be a directory"]),
        ("a whiteout of nothing", Raw::new().file(b"d/.wh.", b""), &["\"d/.wh.\""]),
        ("a long component", Raw::new().long_name(&[b'n'; 256]).file(b"n", b""), &["255 bytes", "nnn"]),
        ("a long path", Raw::new().long_name(&long).file(b"n", b""), &["4095 bytes", "aaa"]),
        ("a zero in a name", Raw::new().pax(&[("path", b"a\0b")]).file(b"n", b""), &["x00b", "zero byte"]),
        (
            "a zero in a target",
            Raw::new().pax(&[("linkpath", b"a\0b")]).link(T::Symlink, b"s", b"t"),
            &["\"s\"", "zero byte"],
        ),
        (
            "a long target",
            Raw::new().pax(&[("linkpath", &[b'/'; 5000])]).link(T::Symlink, b"s", b"t"),
            &["\"s\"", "4095"],
        ),
    ]);
}

#[test]
fn a_path_that_symlinks_make_long() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let deep = [&[b'd'; 199][..], b"/"].concat().repeat(19);
    let raw = Raw::new().long_name(&deep).entry(T::Directory, b"x", b"").pax(&[("linkpath", &deep)]).link(
        T::Symlink,
        b"s",
        b"t",
    );
    rig.refuses(
        "made long",
        &raw.long_name(&[&b"s/"[..], &[b'f'; 250], b"/", &[b'g'; 250]].concat()).file(b"f", b"").done(),
        Kind::Invalid,
        &["entry \"s/ff", "4095"],
    );
}

#[test]
fn headers_that_make_no_sense() {
    let file = |at, bytes| Raw::new().with(T::Regular, b"f", b"", field(at, bytes));
    let pax = |key: &str, value: &[u8]| Raw::new().pax(&[(key, value)]).file(b"f", b"");
    let mut sum = Raw::new().file(b"first", b"").file(b"second", b"");
    sum.0[512 + 1] ^= 1;
    check(vec![
        ("char 0:0", Raw::new().device(T::Char, b"c", 0, 0), &["\"c\"", "0:0"]),
        ("a wide major", Raw::new().device(T::Block, b"b", 4096, 0), &["12 bits"]),
        ("a wide minor", Raw::new().device(T::Char, b"c", 1, 1 << 20), &["20 bits"]),
        ("another type", Raw::new().entry(T::new(b'Z'), b"odd", b""), &["\"odd\"", "\"Z\""]),
        ("a sum", sum, &["after entry \"first\"", "checksum"]),
        ("a negative size", file(124, &[0xff; 12]), &["entry \"f\"", "size -1"]),
        ("a size that is no number", file(124, b"0000000000x\0"), &["size is no number"]),
        (
            "a huge size",
            file(124, &[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            &["size"],
        ),
        ("a negative uid", file(108, &[0xff; 8]), &["entry \"f\"", "uid -1"]),
        ("uid 2^32-1", file(108, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), &["\"f\"", "uid 4294967295"]),
        ("gid 2^40", file(116, &[0x80, 0, 1, 0, 0, 0, 0, 0]), &["\"f\"", "gid"]),
        ("PAX uid", pax("uid", b"4294967295"), &["\"f\"", "uid 4294967295"]),
        ("PAX gid", pax("gid", b"-5"), &["\"f\"", "gid -5"]),
        ("PAX uid that is none", pax("uid", b"root"), &["uid cannot be \"root\""]),
        ("PAX mtime NaN", pax("mtime", b"NaN"), &["mtime cannot be \"NaN\""]),
        ("PAX mtime out of reach", pax("mtime", b"99999999999999999999"), &["mtime cannot be"]),
        ("PAX size", pax("size", b"-1"), &["size cannot be"]),
        ("PAX size of more than there is", pax("size", b"99999999"), &["\"f\""]),
        ("a broken PAX record", Raw::new().entry(T::XHeader, b"p", b"99 a=b\n").file(b"f", b""), &["PAX"]),
        ("zeros among entries", Raw(vec![0; 512]).file(b"f", b""), &["block of zeros"]),
        (
            "sparse of another format",
            Raw::new().pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")]).file(b"f", b""),
            &["\"f\"", "2.0"],
        ),
    ]);
}

#[test]
fn archives_that_end_early() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let whole = Raw::new().file(b"first", b"x").file(b"second", &[7; 3000]);
    let ends = |keep: usize| whole.0[..keep].to_vec();
    rig.refuses(
        "in data",
        &ends(512 + 512 + 512 + 1000),
        Kind::Invalid,
        &["entry \"second\"", "2000 bytes before"],
    );
    rig.refuses(
        "in a header",
        &ends(512 + 512 + 100),
        Kind::Invalid,
        &["after entry \"first\"", "within a header"],
    );
    let alone = Raw::new().file(b"first", b"").pax(&[("path", b"y")]);
    rig.refuses(
        "after a PAX header",
        &alone.done(),
        Kind::Invalid,
        &["after entry \"first\"", "extended header"],
    );
    // Without its end marker, and not filled up, everybody reads it.
    assert!(rig.takes(&ends(512 + 512 + 512 + 3000)).join("second").exists());
}

#[test]
fn headers_of_gigabytes_are_not_read() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    for (what, kind) in [("pax", T::XHeader), ("name", T::GNULongName), ("link", T::GNULongLink)] {
        let raw = Raw::new().file(b"first", b"").with(kind, b"large", b"", |h| h.set_size(8 << 30));
        rig.refuses(what, &raw.done(), Kind::Limit, &["after entry \"first\"", "\"large\"", "1048576 bytes"]);
    }
    // One for all entries is passed over, not kept.
    let global = Raw::new().entry(T::XGlobalHeader, b"g", &vec![b'x'; 3 << 20]).file(b"f", b"");
    assert!(rig.takes(&global.done()).join("f").exists());
}

#[test]
fn extended_attributes_have_bounds() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let with = |name: String, value: &[u8]| {
        Raw::new().pax(&[(&format!("SCHILY.xattr.{name}"), value)]).file(b"f", b"x").done()
    };
    for (what, tar) in [
        ("a long name", with(format!("user.{}", "n".repeat(300)), b"v")),
        ("a long value", with("user.a".into(), &vec![b'v'; 70_000])),
        ("a capability that is none", with("security.capability".into(), b"nonsense")),
    ] {
        rig.refuses(what, &tar, Kind::Io, &["entry \"f\"", "xattr"]);
    }
    rig.takes(&with("trusted.overlay.opaque".into(), b"y"));
}

#[test]
fn limits_name_what_they_limit() {
    let limits = Limits { layer_entries: 300, devices: false, layer_size: 8 << 20, ..Limits::default() };
    let Some(rig) = Rig::new(limits) else { return };
    let many = |n: usize| (0..n).fold(Raw::new(), |raw, n| raw.file(format!("f{n}").as_bytes(), b"")).done();
    rig.takes(&many(300));
    rig.refuses("entries", &many(301), Kind::Limit, &["entry \"f300\"", "limits.layer_entries"]);
    let deep = b"d/".repeat(400);
    let deep = Raw::new().long_name(&deep).entry(T::Directory, b"d", b"");
    rig.refuses("directories", &deep.done(), Kind::Limit, &["entry \"d/d/", "limits.layer_entries"]);
    let wide = (0..290).fold(Raw::new(), |raw, n| {
        let target = vec![b'/'; 4000];
        raw.pax(&[("linkpath", &target)]).link(T::Symlink, format!("s{n}").as_bytes(), b"t")
    });
    rig.refuses("targets", &wide.done(), Kind::Limit, &["entry \"s2", "limits.layer_entries"]);
    for kind in [T::Char, T::Block] {
        rig.refuses(
            "devices",
            &Raw::new().device(kind, b"dev", 1, 3).done(),
            Kind::Limit,
            &["\"dev\"", "limits.devices"],
        );
    }
    rig.takes(&Raw::new().entry(T::Fifo, b"pipe", b"").done());
    let exabytes = Raw::new().with(T::GNUSparse, b"huge", b"", |h| {
        let real = &mut h.as_mut_bytes()[483..495];
        real.copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    });
    rig.refuses("8 EiB of holes", &exabytes.done(), Kind::Limit, &["entry \"huge\"", "limits.layer_size"]);
    assert_eq!(
        Limits::default().layer_entries,
        1_000_000,
        "ten million entries are refused unless somebody asks for them"
    );
}

#[test]
fn odd_but_harmless() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let fs_dir = rig.takes(
        &Raw::new()
            .file(b"/etc/../absolute", b"dropped")
            .file(b"README", b"1")
            .file(b"readme", b"2")
            .file("caf\u{e9}".as_bytes(), b"composed")
            .file("cafe\u{301}".as_bytes(), b"decomposed")
            .file(b"twice", b"first")
            .file(b"twice", b"second")
            .file(b"becomes", b"")
            .entry(T::Directory, b"becomes/", b"")
            .file(b"becomes/x", b"")
            .entry(T::Directory, b"was/dir/", b"")
            .file(b"was", b"a file")
            .device(T::Char, b"null", 1, 3)
            .link(T::Link, b"self", b"self2")
            .file(b"self2", b"")
            .link(T::Link, b"self", b"self2")
            .done(),
    );
    let read = |name: &str| fs::read_to_string(fs_dir.join(name)).unwrap();
    assert_eq!(
        (read("absolute"), read("README"), read("readme")),
        ("dropped".into(), "1".into(), "2".into())
    );
    assert_eq!((read("caf\u{e9}"), read("cafe\u{301}")), ("composed".into(), "decomposed".into()));
    assert_eq!((read("twice"), read("was")), ("second".into(), "a file".into()));
    assert!(fs_dir.join("becomes/x").exists());
    assert!(fs::symlink_metadata(fs_dir.join("null")).unwrap().file_type().is_char_device());
    assert_eq!(fs::metadata(fs_dir.join("self")).unwrap().nlink(), 2);
}

#[test]
fn times_that_the_disk_cannot_keep_become_the_nearest() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let times: [(&str, &[u8]); 5] = [
        ("old", b"-1.5"),
        ("older", b"-9223372036854775808"),
        ("far", b"16725225600"),
        ("farther", b"9223372036854775807"),
        ("fine", b"1.25"),
    ];
    let raw = times.iter().fold(Raw::new(), |raw, (name, time)| {
        raw.pax(&[("mtime", time)]).file(name.as_bytes(), b"").pax(&[("mtime", time)]).entry(
            T::Directory,
            format!("d-{name}/").as_bytes(),
            b"",
        )
    });
    let fs_dir = rig.takes(&raw.done());
    for (name, time) in times {
        let here = rig.dir.path().join("beside/time");
        let status = std::process::Command::new("touch")
            .args(["-d", &format!("@{}", std::str::from_utf8(time).unwrap())])
            .arg(&here)
            .status();
        assert!(status.unwrap().success());
        for path in [fs_dir.join(name), fs_dir.join(format!("d-{name}"))] {
            let (kept, wanted) = (fs::metadata(&path).unwrap(), fs::metadata(&here).unwrap());
            assert_eq!((kept.mtime(), kept.mtime_nsec()), (wanted.mtime(), wanted.mtime_nsec()), "{name}");
            let entries = fs::read_to_string(fs_dir.with_file_name("entries")).unwrap();
            let mtime = format!("{}.{:09}", kept.mtime(), kept.mtime_nsec());
            assert!(
                entries.contains(&mtime),
                "{name}: what is written down is what is there, {mtime}: {entries}"
            );
        }
    }
}

#[test]
fn links_to_what_no_layer_has() {
    let Some(rig) = Rig::new(Limits::default()) else { return };
    let base = Tar::new().file("there", "x").symlink("out", "../../../beside").done();
    pull(&rig.store, "base", std::slice::from_ref(&base)).unwrap();
    let swap = Raw::new().file(b"out/canary", b"owned").done();
    let image = pull(&rig.store, "swapped", &[base.clone(), swap]).unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(fs::read_to_string(rig.dir.path().join("beside/canary")).unwrap(), "canary");
    let missing = Raw::new().link(T::Link, b"h", b"not/there").done();
    let error = rig.refused("missing", |store| pull(store, "bad", &[base.clone(), missing]).map(|_| ()));
    let text = error.to_string();
    assert!(text.contains("\"h\"") && text.contains("not/there"), "{text}");
}

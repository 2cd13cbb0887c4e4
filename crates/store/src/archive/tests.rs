use super::spool::{Packing, clean};

#[test]
fn names_stay_in_the_archive() {
    for (name, cleaned) in [
        ("./a//b/./c", Some("a/b/c")),
        ("a/../b", Some("b")),
        ("/etc/passwd", Some("etc/passwd")),
        ("../x", None),
        ("a/../../x", None),
        ("", None),
        ("a/..", None),
    ] {
        assert_eq!(clean(name).as_deref(), cleaned, "{name}");
    }
}

#[test]
fn compression_by_first_bytes() {
    assert_eq!(Packing::of(&[0x1f, 0x8b, 8, 0, 0, 0]), Packing::Gzip);
    assert_eq!(Packing::of(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0]), Packing::Zstd);
    assert_eq!(Packing::of(b"BZh91A"), Packing::Other("bzip2"));
    assert_eq!(Packing::of(&[0xfd, b'7', b'z', b'X', b'Z', 0]), Packing::Other("xz"));
    assert_eq!(Packing::of(b"etc/pa"), Packing::None);
    assert_eq!(Packing::of(b""), Packing::None);
}

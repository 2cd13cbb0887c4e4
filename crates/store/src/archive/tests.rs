use super::spool::{Packing, clean};
use super::stream::{Kind, Stream};
use std::io::Read;

fn header(name: &str, size: u64, kind: u8) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

fn block(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(512), 0);
    padded
}

fn entries(tar: &[u8]) -> crate::Result<Vec<(String, Kind, Vec<u8>)>> {
    let mut stream = Stream::new(tar);
    let mut all = Vec::new();
    while let Some(entry) = stream.next()? {
        let mut bytes = Vec::new();
        if entry.kind == Kind::File {
            stream.read_to_end(&mut bytes)?;
            assert_eq!(bytes.len() as u64, entry.size);
        }
        all.push((entry.name, entry.kind, bytes));
    }
    stream.finish()?;
    Ok(all)
}

#[test]
fn entries_of_every_form() {
    let long = "d/".repeat(150) + "file";
    let mut builder = tar::Builder::new(Vec::new());
    let mut gnu = tar::Header::new_gnu();
    gnu.set_size(3);
    builder.append_data(&mut gnu, &long, &b"abc"[..]).unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "link", &long).unwrap();
    let mut tar = builder.into_inner().unwrap();
    tar.truncate(tar.len() - 1024);
    // The size that counts is PAX's: so are files written that are larger than the header can say.
    let record = b"13 path=p/q\n9 size=5\n";
    let record = [&record[..0], b"12 path=p/q\n10 size=5\n"].concat();
    tar.extend(header("PaxHeaders/x", record.len() as u64, b'x').as_bytes());
    tar.extend(block(&record));
    tar.extend(header("short", 0, b'0').as_bytes());
    tar.extend(block(b"hello"));
    tar.extend(header("dir/", 0, 0).as_bytes());
    tar.extend(header("hard", 0, b'1').as_bytes());
    let all = entries(&tar).unwrap();
    assert_eq!(all[0], (long.clone(), Kind::File, b"abc".to_vec()));
    assert_eq!(all[1].1, Kind::Symlink(long));
    assert_eq!(all[2], ("p/q".into(), Kind::File, b"hello".to_vec()));
    assert_eq!(all[3].1, Kind::Other, "a directory before POSIX");
    assert_eq!(all[4].1, Kind::HardLink(String::new()));
    tar.extend([0; 10240]);
    assert_eq!(entries(&tar).unwrap().len(), 5);
}

#[test]
fn what_no_tar_may_be() {
    let refused = |tar: &[u8]| entries(tar).unwrap_err().to_string();
    let file = [header("f", 600, b'0').as_bytes().to_vec(), vec![1; 1024]].concat();
    assert_eq!(entries(&file).unwrap().len(), 1);
    for cut in [1, 511, 513, 1000, 1120, 1530] {
        assert!(refused(&file[..cut]).contains("in the middle"), "{cut}");
    }
    assert!(refused(&[7; 512]).contains("checksum"));
    let mut trailing = file.clone();
    trailing.extend([0; 1024]);
    trailing.extend(b"garbage");
    assert!(refused(&trailing).contains("follows the archive's end"));
    // A header may announce what it likes: nothing is read before it is found too large.
    for kind in [b'L', b'K', b'x'] {
        assert!(refused(header("h", 1 << 33, kind).as_bytes()).contains("header of"), "{}", char::from(kind));
    }
    assert!(refused(header("s", 0, b'S').as_bytes()).contains("sparse"));
    for record in ["", "5", "99 path=x\n", "9 path=x", "x path=y\n", "3 \n", "8 path\n\n", "10 size=x\n"] {
        let pax =
            [header("x", record.len() as u64, b'x').as_bytes().to_vec(), block(record.as_bytes())].concat();
        let tar = [pax, header("f", 0, b'0').as_bytes().to_vec()].concat();
        assert_eq!(entries(&tar).is_err(), !record.is_empty(), "{record:?}");
    }
    let many: Vec<u8> = std::iter::repeat_n(*header("f", 0, b'0').as_bytes(), 100_001).flatten().collect();
    assert!(refused(&many).contains("entries"));
}

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

//! Files of every kind with every attribute, in archives of every form, and stacks of every length.

use crate::common::privileged;
use crate::layer::{Entry, LONG_AGO, Layer, What, dir, file, link, opaque, symlink, whiteout};
use crate::{case, check};

/// A POSIX ACL as its attribute holds it (linux/posix_acl_xattr.h): user, one more user, group, mask, other.
pub fn acl(user: u16, named: (u32, u16), group: u16, other: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1, user, none), (2, named.1, named.0), (4, group, none), (0x10, group, none), (0x20, other, none)]
    {
        let (tag, permissions): (u16, u16) = (tag, permissions);
        bytes.extend(tag.to_le_bytes().into_iter().chain(permissions.to_le_bytes()).chain(id.to_le_bytes()));
    }
    bytes
}

/// File capabilities (linux/capability.h, version 2): CAP_NET_RAW, effective.
pub fn capabilities() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

#[test]
fn attributes_of_all_kinds() {
    case(&[&[
        file("setuid", "#!").mode(0o6755).owner(1000, 50).mtime(LONG_AGO, 123_456_789),
        file("capable", "elf").mode(0o755).xattr("security.capability", capabilities()),
        file("secret", "").mode(0o000).owner(65_534, 4_000_000_000),
        dir("sticky", 0o1777).owner(0, 42).mtime(LONG_AGO, 1),
        dir("group", 0o2775).owner(0, 42),
        file("group/of-root", "").mode(0o640),
        dir("group/unlisted-no", 0o755),
        file("old", "").mtime(-86_400, 250_000_000),
        symlink("link", "nowhere").owner(5, 6).mtime(LONG_AGO - 5, 3),
        Entry::new("null", What::Char(1, 3)).mode(0o666).owner(0, 5),
        Entry::new("disk", What::Block(259, 70_000)).mode(0o660).owner(0, 6),
        Entry::new("pipe", What::Fifo).mode(0o600).owner(1, 1).mtime(LONG_AGO, 9),
        file("noted", "")
            .xattr("user.empty", "")
            .xattr("user.bytes", [0, 1, 255])
            .xattr("user.long", vec![7; 3000]),
        dir("noted.d", 0o755).xattr("user.on-dir", "yes"),
    ]]);
}

#[test]
fn access_control_lists() {
    let (access, default) = ("system.posix_acl_access", "system.posix_acl_default");
    case(&[
        &[
            dir("d", 0o770).xattr(access, acl(7, (1000, 5), 7, 0)).xattr(default, acl(7, (1001, 7), 5, 0)),
            file("d/plain", "").mode(0o644),
            file("d/with", "").mode(0o640).xattr(access, acl(6, (1000, 4), 4, 0)),
            dir("d/sub", 0o755),
            file("d/unlisted/f", ""),
        ],
        &[file("d/later", "").mode(0o600), file("d/new/f", "")],
        &[dir("d/sub", 0o711).xattr(default, acl(7, (5, 5), 5, 5)), file("d/sub/f", "").mode(0o666)],
    ]);
    // A directory has the attributes of its last entry, and no others.
    case(&[
        &[dir("d", 0o755).xattr("user.a", "1").xattr(default, acl(7, (1, 7), 5, 0))],
        &[dir("d", 0o700).xattr("user.b", "2")],
    ]);
}

#[test]
fn odd_names() {
    let long = "n".repeat(255);
    let deep = ["p".repeat(90), "q".repeat(90), "r".repeat(90), long.clone()].join("/");
    case(&[
        &[
            file(&long, "255").mtime(LONG_AGO, 5),
            file(&deep, "deep"),
            file(b"not \xff utf-8 \xc3", ""),
            dir(b"d\xfe", 0o700),
            file(b"d\xfe/new\nline \\ \t", ""),
            symlink("to-long", &deep),
            symlink(format!("{}/l", "p".repeat(90)), "x".repeat(1000)),
            link("hard", &deep),
            file("./with/./dots//and/slashes", ""),
            file("/leading/slash", ""),
            file(".whatever", ""),
            file("sp ace", ""),
        ],
        &[
            whiteout(&deep),
            whiteout(b"d\xfe/new\nline \\ \t"),
            link(&[long.as_bytes(), b"/"].concat()[..250], &long),
        ],
    ]);
}

#[test]
fn roots_listed_and_not() {
    let root = |mode| dir("./", mode).owner(1, 2).mtime(LONG_AGO, 3).xattr("user.root", "r");
    case(&[&[root(0o711), file("a", "")], &[file("b", "")]]);
    case(&[&[file("a", "")], &[root(0o700), whiteout("a")]]);
    case(&[&[root(0o711)], &[dir("./", 0o755)], &[opaque("")]]);
    case(&[&[]]);
}

#[test]
fn empty_layers_and_the_same_layer_twice() {
    let (one, two): (&[Entry], &[Entry]) =
        (&[file("f", "one"), dir("d", 0o700)], &[file("f", "two"), file("d/x", "")]);
    case(&[one, &[], two, &[], one]);
    case(&[one, two, one, two]);
    let follows: &[Entry] = &[file("lib/x", "")];
    case(&[&[dir("usr", 0o755), symlink("lib", "usr")], follows, &[whiteout("lib")], follows]);
    let links: &[Entry] = &[link("c", "f")];
    case(&[one, links, &[file("f", "new")], links]);
    let hides: &[Entry] = &[whiteout("w"), opaque("o"), file("o/mine", "")];
    case(&[
        &[file("w", ""), file("o/low", "")],
        hides,
        hides,
        &[file("w", "again"), file("o/more", "")],
        hides,
    ]);
}

#[test]
fn hundreds_of_layers() {
    if !privileged() {
        return;
    }
    let layers: Vec<Layer> = (0..300_u32)
        .map(|n| {
            let mut entries =
                vec![file(format!("f{n}"), n.to_string()), dir(format!("d{}", n % 7), 0o700 + n % 64)];
            entries.push(file(format!("d{}/x{n}", (n + 3) % 7), ""));
            if n % 5 == 4 {
                entries.push(whiteout(format!("f{}", n - 3)));
                entries.push(whiteout(format!("d{}/x{}", n % 7, n - 3)));
            }
            Layer::new(entries)
        })
        .collect();
    check(tempfile::tempdir().unwrap().path(), &layers);
}

/// Layers that GNU tar itself makes, in each of its forms.
/// More than are written at a time, and what becomes of them before they are.
#[test]
fn many_files_whose_names_change_meanwhile() {
    let mut entries = vec![dir("d", 0o755), dir("gone", 0o755)];
    for n in 0..300_u32 {
        let data = vec![u8::try_from(n % 251).unwrap(); usize::try_from(n).unwrap() * 67];
        entries.push(file(format!("d/{n}"), &data).mode(0o4755).owner(n, n + 1).mtime(i64::from(n), n));
        entries.push(file(format!("gone/{n}"), &data).xattr("user.n", n.to_string()));
        match n % 5 {
            1 => entries.push(link(format!("d/{n}-too"), format!("gone/{n}"))),
            2 => entries.push(file(format!("d/{n}"), "the last one counts")),
            3 => entries.push(symlink(format!("d/{n}"), "0")),
            _ => {}
        }
    }
    entries.push(file("gone", "no directory any more"));
    case(&[&entries, &[whiteout("d/0"), file("d/1", "of the next layer")]]);
}

#[test]
fn archives_of_gnu_tar() {
    if !privileged() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let source = tmp.path().join("source");
    std::fs::create_dir_all(source.join("dir/in")).unwrap();
    let long = "l".repeat(200);
    std::fs::write(source.join(&long), "long").unwrap();
    std::fs::hard_link(source.join(&long), source.join("dir/again")).unwrap();
    std::os::unix::fs::symlink(format!("{long}/{long}"), source.join("dir/symlink")).unwrap();
    let sparse = std::fs::File::create(source.join("sparse")).unwrap();
    for at in [0, 1 << 20, 3 << 20, (5 << 20) + 17] {
        std::os::unix::fs::FileExt::write_at(&sparse, b"data among holes", at).unwrap();
    }
    sparse.set_len(8 << 20).unwrap();
    for (n, options) in [
        &["--format=gnu", "--sparse"][..],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=gnu"],
        &["--format=posix"],
        &["--format=oldgnu"],
    ]
    .into_iter()
    .enumerate()
    {
        let old = format!("--mtime=@{LONG_AGO}.{n}25");
        let output = std::process::Command::new("tar")
            .args(["-c", "-C"])
            .arg(&source)
            .args(options)
            .args([&old, "--numeric-owner", "dir", "sparse", &long])
            .output()
            .unwrap();
        assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
        let layers = [
            Layer::new([dir("dir", 0o700).xattr("user.low", "1"), file("dir/low", "")]),
            Layer::made(output.stdout, [dir("dir", 0o755), dir("dir/in", 0o755)]),
        ];
        let case = tmp.path().join(n.to_string());
        std::fs::create_dir(&case).unwrap();
        check(&case, &layers);
    }
}

//! Stacks that were met, and such as somebody may build to do harm.

use crate::check;
use crate::common::privileged;
use crate::layer::{Entry, LONG_AGO, Layer, What, dir, file, link, opaque, symlink, whiteout};

/// Runs a case with each list of entries as a layer.
fn case(layers: &[&[Entry]]) {
    if privileged() {
        let layers: Vec<Layer> = layers.iter().map(|entries| Layer::new(*entries)).collect();
        check(tempfile::tempdir().unwrap().path(), &layers);
    }
}

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
fn whiteouts() {
    case(&[
        &[
            dir("d", 0o750),
            file("d/a", "a"),
            file("d/b", "b"),
            symlink("l", "d"),
            dir("e", 0o755),
            file("e/x/y", ""),
        ],
        &[dir("d", 0o750), whiteout("d/a"), whiteout("l"), whiteout("e/x"), whiteout("nothing")],
    ]);
}

#[test]
fn opaque_directories() {
    let low = [
        dir("d", 0o711).mtime(LONG_AGO, 5),
        file("d/a", ""),
        dir("d/s", 0o700),
        file("d/s/x", ""),
        file("f", ""),
    ];
    case(&[&low, &[dir("d", 0o700), opaque("d"), file("d/b", "")]]);
    // Its marker may come last, and its directory need not be listed.
    case(&[&low, &[file("d/b", ""), file("d/s/y", ""), opaque("d")]]);
    case(&[&low, &[opaque("d")]]);
    case(&[&low, &[dir("new", 0o755), opaque("new"), opaque("newer"), opaque("f")]]);
    case(&[&low, &[opaque(""), file("only", "")], &[file("more", "")]]);
}

#[test]
fn what_is_hidden_with_its_directory_counts_for_nothing() {
    let low = [
        dir("d", 0o755),
        dir("d/s", 0o700).owner(5, 5).xattr("user.low", "1"),
        file("d/s/x", ""),
        file("d/y", "y"),
        symlink("d/l", "s"),
    ];
    // An unlisted directory does not take the attributes of one that is hidden, nor follow a hidden symlink.
    case(&[&low, &[opaque("d"), file("d/s/new", ""), file("d/l/new", "")]]);
    case(&[&low, &[whiteout("d"), file("d/s/new", ""), file("d/l/new", "")]]);
    // A whiteout of something hidden is one of nothing.
    case(&[&low, &[opaque("d"), dir("d/s", 0o755), whiteout("d/s/x"), whiteout("d/y"), file("d/s/z", "")]]);
    case(&[&low, &[whiteout("d"), whiteout("d/s"), whiteout("d/s/x"), opaque("d/s")]]);
    case(&[&low, &[whiteout("d"), dir("d", 0o700), whiteout("d/y"), whiteout("d/s/x"), file("d/s/z", "")]]);
}

#[test]
fn whiteout_and_re_creation_in_one_layer() {
    let low = [dir("d", 0o700), file("d/old", ""), file("f", "old"), link("g", "f"), symlink("l", "d")];
    case(&[&low, &[whiteout("d"), dir("d", 0o755), file("d/new", ""), whiteout("f"), file("f", "new")]]);
    case(&[&low, &[file("d/new", ""), whiteout("d"), file("f", "new"), whiteout("f")]]);
    case(&[&low, &[whiteout("d"), file("d", "now a file"), whiteout("f"), file("f/in", "")]]);
    case(&[&low, &[whiteout("l"), file("l/real", ""), whiteout("g"), link("g", "f")]]);
    case(&[&low, &[link("b", "f"), whiteout("b")], &[whiteout("b"), link("b", "g")]]);
}

#[test]
fn unlisted_parents_are_as_below() {
    case(&[&[dir("tmp", 0o1777)], &[file("tmp/x", "x")]]);
    case(&[
        &[dir("a", 0o750).owner(3, 4).xattr("user.a", "a"), dir("a/b", 0o2755).owner(0, 9)],
        &[file("a/b/c/d", ""), file("z/y/x", "")],
        &[file("a/b/c/e", ""), dir("z/y", 0o700)],
        &[file("z/y/w", "")],
    ]);
}

#[test]
fn unlisted_parents_that_are_symlinks() {
    let low = [
        dir("usr", 0o755),
        dir("usr/lib", 0o750),
        dir("usr/lib/sub", 0o700),
        symlink("lib", "usr/lib"),
        symlink("abs", "/usr/lib"),
        symlink("chain", "lib/sub"),
        symlink("up", "../../../usr/./lib/../lib"),
        symlink("usr/back", "../abs"),
    ];
    for name in ["lib", "abs", "chain", "up", "usr/back"] {
        case(&[
            &low,
            &[
                file(format!("{name}/x"), "x"),
                dir(format!("{name}/sub"), 0o711),
                file(format!("{name}/sub/y"), "y"),
            ],
            &[
                whiteout(format!("{name}/x")),
                file(format!("{name}/z"), ""),
                symlink(format!("{name}/s"), "sub"),
            ],
            &[file(format!("{name}/s/deep"), ""), link(format!("{name}/linked"), format!("{name}/s/deep"))],
            &[opaque(format!("{name}/sub")), file(format!("{name}/sub/only"), "")],
        ]);
    }
    // The same file by two ways: the last one counts.
    case(&[&low, &[file("lib/x", "first"), file("usr/lib/x", "last")]]);
    case(&[&low, &[file("usr/lib/x", "first"), file("lib/x", "last")]]);
    // What was a symlink for the first entry is a directory for the second.
    case(&[&low, &[file("lib/x", ""), dir("lib", 0o700), file("lib/y", "")]]);
    case(&[&low, &[file("lib/x", ""), file("lib", "a file")], &[file("abs/y", "")]]);
    case(&[&low, &[file("chain/x", ""), symlink("lib", "usr"), file("lib/y", "")]]);
}

#[test]
fn unlisted_parents_over_dangling_symlinks_are_made_where_these_lead() {
    if !privileged() {
        return;
    }
    // GNU tar and Docker refuse them, containerd does this.
    let tmp = tempfile::tempdir().unwrap();
    let layers = [Layer::new([symlink("run", "/var/run")]), Layer::new([file("run/pid", "1")])];
    let seen = crate::seen(tmp.path(), &layers);
    assert_eq!(seen.0[&b"var/run/pid".to_vec()].content, b"1");
    assert_eq!(seen.0[&b"run".to_vec()].content, b"/var/run");
}

#[test]
fn listed_directories_replace_symlinks() {
    let low = [dir("usr", 0o755), dir("usr/lib", 0o755), file("usr/lib/x", ""), symlink("lib", "usr/lib")];
    case(&[&low, &[dir("lib", 0o700), file("lib/y", "")]]);
    // As overlay file systems are archived: the marker is the new directory's, not that of where the symlink led.
    case(&[&low, &[dir("lib", 0o700), opaque("lib"), file("lib/y", "")]]);
    case(&[&low, &[opaque("lib"), dir("lib", 0o700), whiteout("lib/x")]]);
    case(&[&low, &[symlink("lib", "usr/lib"), whiteout("lib/x")]]);
}

#[test]
fn an_unlisted_parent_over_a_whiteout_of_the_layer_between() {
    let low = [dir("d", 0o700).owner(1, 1), file("d/x", ""), symlink("l", "d")];
    case(&[&low, &[whiteout("d"), whiteout("l")], &[file("d/y", ""), file("l/y", "")]]);
    case(&[&low, &[whiteout("d")], &[file("d/y", "")], &[dir("d", 0o711)], &[file("d/z", "")]]);
    case(&[&low, &[opaque("d")], &[file("d/y", "")]]);
}

#[test]
fn whiteouts_of_nothing_show_no_ghosts() {
    case(&[&[dir("d", 0o755), whiteout("d/ghost"), file("d/f", "")]]);
    case(&[&[file("f", "")], &[dir("d", 0o755), whiteout("d/ghost")], &[file("g", "")]]);
    case(&[&[dir("d", 0o755)], &[dir("d", 0o755), whiteout("d/ghost")]]);
    case(&[&[file("f", "")], &[whiteout("d/ghost"), whiteout("f/ghost"), whiteout("ghost")]]);
    case(&[&[dir("d", 0o711)], &[whiteout("d/e/ghost"), opaque("d/o")], &[whiteout("d/e")]]);
    let twice: &[Entry] = &[dir("new", 0o755), whiteout("new/ghost"), whiteout("w")];
    case(&[twice, twice]);
    case(&[&[file("w", "")], twice, &[whiteout("new")], twice]);
}

#[test]
fn hard_links_across_layers() {
    let low = [
        dir("d", 0o700),
        file("d/a", "a").mode(0o4755).owner(7, 8).xattr("user.x", "1").mtime(LONG_AGO, 7),
        link("d/b", "d/a"),
        file("single", "s"),
        symlink("s", "d"),
        Entry::new("fifo", What::Fifo),
    ];
    case(&[&low, &[link("c", "d/a"), link("e", "single"), link("p", "fifo"), link("t", "s")]]);
    // Names that the layer hides or replaces do not come up with the rest.
    case(&[&low, &[link("c", "d/a"), whiteout("d/b")]]);
    case(&[&low, &[link("c", "d/a"), file("d/b", "other")]]);
    case(&[
        &low,
        &[file("d/b", "other"), link("c", "d/a"), file("d/a", "mine"), link("e", "d/a"), link("f", "c")],
    ]);
    case(&[&low, &[link("c", "d/a"), file("c", "replaced")]]);
    case(&[&low, &[link("c", "d/a"), link("e", "c"), file("c", "replaced")]]);
    case(&[&low, &[link("c", "d/a"), file("d", "a file")]]);
    // Behind symlinks.
    case(&[&low, &[link("c", "s/a")]]);
    case(&[&low, &[link("s/c", "s/a"), whiteout("s/b")]]);
    case(&[
        &low,
        &[link("c", "d/a")],
        &[link("x", "c"), whiteout("d/a")],
        &[link("y", "d/b"), file("x", "")],
    ]);
    case(&[&low, &[link("d/b", "d/a"), link("single", "d/a")]]);
}

#[test]
fn files_become_directories_and_back() {
    let low = [file("x", "file"), dir("y", 0o755), file("y/in/deep", "in"), symlink("z", "y")];
    case(&[
        &low,
        &[dir("x", 0o700), file("x/in", ""), file("y", "file"), Entry::new("z", What::Fifo)],
        &[file("x", "file again"), dir("y", 0o711), symlink("z", "x")],
        &[dir("x", 0o755), dir("z", 0o755), file("z/f", "")],
    ]);
    // Within one layer: what is below stays away.
    case(&[&low, &[file("y", "file"), dir("y", 0o700), file("y/new", "")]]);
    case(&[&low, &[dir("y", 0o700), file("y/new", ""), symlink("y", "x"), dir("y", 0o711)]]);
    case(&[&low, &[dir("w", 0o755), file("w/in", ""), file("w", "file"), file("w", "last")]]);
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

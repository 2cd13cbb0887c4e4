//! Stacks in which one layer hides, replaces or reaches through what another has.

use crate::case;
use crate::common::privileged;
use crate::layer::{Entry, LONG_AGO, Layer, What, dir, file, link, opaque, symlink, whiteout};

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
    // What the path leads through, and what its target is.
    case(&[&low, &[link("s/a", "s")]]);
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

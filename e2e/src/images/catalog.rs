//! The images that tests and the demonstration use, made from Debian's packages.

use super::{Compression, Flavor, Image, ImageBuilder, Layer, LayerBuilder};
use crate::Result;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where busybox-static puts its binary.
pub const BUSYBOX: &str = "/bin/busybox";
/// The suite that [`debian`] is made of.
pub const SUITE: &str = "bookworm";

/// The layer that several images share: busybox, its applets, and a few users.
///
/// It lists every directory it has something in, so it is the same wherever it lies in an image.
pub fn busybox_layer() -> Result<Layer> {
    let binary = std::fs::read(BUSYBOX)
        .map_err(|e| format!("{BUSYBOX}: {e}; install Debian's busybox-static (hack/deps does)"))?;
    let list = Command::new(BUSYBOX).arg("--list").output()?;
    let applets = String::from_utf8(list.stdout)?;
    let mut layer = LayerBuilder::new();
    for (dir, mode) in [("bin", 0o755), ("etc", 0o755), ("home", 0o755), ("root", 0o700), ("tmp", 0o1777)] {
        layer = layer.dir(dir, mode);
    }
    layer = layer.file("bin/busybox", 0o755, binary);
    let mut names: Vec<&str> = applets.lines().filter(|name| !matches!(*name, "" | "busybox")).collect();
    names.sort_unstable();
    for name in names {
        layer = layer.symlink(&format!("bin/{name}"), "busybox");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n";
    let group = "root:x:0:\napp:x:1000:\nextra:x:2000:app\n";
    Ok(layer
        .file("etc/passwd", 0o644, passwd)
        .file("etc/group", 0o644, group)
        .dir("home/app", 0o755)
        .file_of("home/app/notes", 0o644, 1000, 1000, "from the busybox layer\n")
        .build())
}

/// busybox alone.
pub fn busybox(flavor: Flavor, compression: Compression) -> Result<Image> {
    let busybox = busybox_layer()?;
    Ok(ImageBuilder::new(flavor)
        .layer(&busybox, compression, "COPY busybox / # buildkit")
        .set("Cmd", json!(["sh"]))
        .build())
}

/// The layer below busybox in [`stacked`].
pub fn base_layer() -> Layer {
    LayerBuilder::new()
        .dir("etc", 0o755)
        .file("etc/motd", 0o644, "Layers of stone.\n")
        .dir("opt", 0o755)
        .dir("opt/strata", 0o755)
        .file("opt/strata/readme", 0o644, "This layer lies below busybox.\n")
        .file("opt/strata/old", 0o644, "to be deleted\n")
        .build()
}

/// The same busybox layer, one deeper than in [`busybox`]: over a layer with files in /etc and /opt.
pub fn stacked(flavor: Flavor, compression: Compression) -> Result<Image> {
    let busybox = busybox_layer()?;
    Ok(ImageBuilder::new(flavor)
        .layer(&base_layer(), compression, "COPY motd opt / # buildkit")
        .layer(&busybox, compression, "COPY busybox / # buildkit")
        .set("Env", json!(["PATH=/bin", "GREETING=hello from the image"]))
        .set("WorkingDir", json!("/opt/strata"))
        .set("Cmd", json!(["sh"]))
        .build())
}

/// A minimal Debian, as [`prepare_debian`] left it in `cache`.
pub fn debian(cache: &Path, flavor: Flavor, compression: Compression) -> Result<Image> {
    let path = minbase(cache);
    let tar = std::fs::read(&path)
        .map_err(|e| format!("{}: {e}; `strata-e2e-images prepare` makes it", path.display()))?;
    let debian = Layer { diff_id: super::digest(&tar), tar };
    Ok(ImageBuilder::new(flavor)
        .layer(&debian, compression, &format!("debootstrap --variant=minbase {SUITE}"))
        .set("Cmd", json!(["bash"]))
        .build())
}

fn minbase(cache: &Path) -> PathBuf {
    cache.join(format!("minbase-{SUITE}.tar"))
}

/// Debootstraps a minimal Debian into a tar in `cache`, if it is not there yet. Needs root and apt's mirror.
pub fn prepare_debian(cache: &Path) -> Result<PathBuf> {
    let tar = minbase(cache);
    if tar.exists() {
        return Ok(tar);
    }
    std::fs::create_dir_all(cache)?;
    let work = tempfile::tempdir_in(cache)?;
    let root = work.path().join("root");
    let done = Command::new("debootstrap")
        .args(["--variant=minbase", SUITE])
        .arg(&root)
        .args(mirror())
        .output()
        .map_err(|e| format!("debootstrap: {e}; install Debian's debootstrap (hack/deps does)"))?;
    if !done.status.success() {
        let log = String::from_utf8_lossy(&done.stdout).into_owned();
        let end: Vec<&str> = log.lines().rev().take(5).collect();
        return Err(format!("debootstrap failed ({}): {}", done.status, end.join(" | ")).into());
    }
    // Downloaded packages and their lists: three quarters of the size, and of no use in an image.
    for dir in ["var/cache/apt/archives", "var/lib/apt/lists", "var/log"] {
        let _ = std::fs::remove_dir_all(root.join(dir));
        std::fs::create_dir_all(root.join(dir))?;
    }
    let layer = LayerBuilder::new().tree(&root)?.build();
    let beside = work.path().join("tar");
    std::fs::write(&beside, &layer.tar)?;
    std::fs::rename(&beside, &tar)?;
    Ok(tar)
}

/// The mirror that this machine's apt uses; none: debootstrap's own choice.
pub(super) fn mirror() -> Option<String> {
    let lists = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let text = lists.iter().find_map(|path| std::fs::read_to_string(path).ok())?;
    text.lines()
        .filter(|line| line.starts_with("URIs:") || line.starts_with("deb "))
        .find_map(|line| line.split_whitespace().find(|word| word.starts_with("http")).map(ToOwned::to_owned))
}

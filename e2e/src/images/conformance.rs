//! The images that cri-tools' validation suite names, made from Debian's packages.

use super::debian::{Apt, said};
use super::{Compression, Flavor, Image, ImageBuilder, Layer, LayerBuilder, digest};
use crate::Result;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The registries whose names the suite's images have.
pub const REGISTRIES: [&str; 3] = ["registry.k8s.io", "gcr.io", "k8s.gcr.io"];

const NGINX_CONF: &str = include_str!("../../data/conformance/nginx.conf");
const NONEWPRIVS: &str = include_str!("../../data/conformance/nonewprivs.c");
const PAUSE: &str = include_str!("../../data/conformance/pause.c");

/// To be raised when [`prepare`] does something else: what is in the cache is then made again.
const RECIPE: u32 = 1;

/// What Debian's configuration of busybox says otherwise than these images need: a shell that runs its own applets instead of
/// what is in /bin does not see that a file there is masked, and what it runs has its own name; two applets the suite uses.
const BUSYBOX: [(&str, bool); 4] =
    [("FEATURE_SH_STANDALONE", false), ("FEATURE_PREFER_APPLETS", false), ("PGREP", true), ("IPCS", true)];

/// An image with what the suite calls it: repository without its registry, and tags.
pub struct Named {
    /// The repository, as in all three registries.
    pub repository: String,
    /// The tags.
    pub tags: Vec<&'static str>,
    /// The image.
    pub image: Image,
}

/// Builds what the images are made of in `cache`, if it is not there yet. Needs a C compiler and apt's mirror; no root.
pub fn prepare(cache: &Path) -> Result<PathBuf> {
    let recipe = format!("{RECIPE}{BUSYBOX:?}{NONEWPRIVS}{PAUSE}{}", super::catalog::SUITE);
    let key = digest(recipe.as_bytes());
    let dir = cache.join(format!("conformance-{}", key.get(7..23).unwrap_or_default()));
    if dir.exists() {
        return Ok(dir);
    }
    std::fs::create_dir_all(cache)?;
    let work = tempfile::tempdir_in(cache)?;
    let parts = work.path().join("parts");
    std::fs::create_dir(&parts)?;
    let apt = Apt::new(&std::path::absolute(work.path().join("apt"))?)?;
    busybox(&apt, &parts)?;
    nginx(&apt, &parts)?;
    for (name, source) in [("nonewprivs", NONEWPRIVS), ("pause", PAUSE)] {
        let file = work.path().join(format!("{name}.c"));
        std::fs::write(&file, source)?;
        said(Command::new("cc").args(["-static", "-Os", "-s", "-o"]).arg(parts.join(name)).arg(file))?;
    }
    match std::fs::rename(&parts, &dir) {
        // Another process was first.
        Err(_) if dir.exists() => Ok(dir),
        done => Ok(done.map(|()| dir)?),
    }
}

/// Builds busybox from Debian's source, as Debian configures the static one but for [`BUSYBOX`].
fn busybox(apt: &Apt, parts: &Path) -> Result<()> {
    let source = apt.source("busybox")?;
    let mut config = std::fs::read_to_string(source.join("debian/config/pkg/static"))?;
    for (option, on) in BUSYBOX {
        let (yes, no) = (format!("CONFIG_{option}=y\n"), format!("# CONFIG_{option} is not set\n"));
        let (from, to) = if on { (&no, &yes) } else { (&yes, &no) };
        if !config.contains(from) {
            return Err(format!("Debian's configuration of busybox lacks {:?}", from.trim()).into());
        }
        config = config.replace(from.as_str(), to);
    }
    std::fs::write(source.join(".config"), config)?;
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // New questions, which an applet switched on may raise, are answered as busybox proposes.
    let script = format!("yes '' | make oldconfig && make -j{jobs}");
    said(Command::new("sh").current_dir(&source).arg("-c").arg(script))?;
    Ok(std::fs::copy(source.join("busybox"), parts.join("busybox")).map(drop)?)
}

/// Takes nginx from Debian's nginx-light, and of the packages it depends on the libraries that it loads.
fn nginx(apt: &Apt, parts: &Path) -> Result<()> {
    let root = apt.unpack("nginx-light")?;
    let libraries = format!("{0}-linux-gnu", std::env::consts::ARCH);
    let dirs = [format!("lib/{libraries}"), format!("usr/lib/{libraries}")];
    let loader =
        dirs.iter().flat_map(|dir| std::fs::read_dir(root.join(dir)).into_iter().flatten().flatten());
    let loader = loader
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ld-linux")))
        .ok_or("Debian's libc6 has no ld-linux*")?;
    let listed = said(Command::new(loader).current_dir(&root).args([
        "--library-path",
        &dirs.join(":"),
        "--list",
        "usr/sbin/nginx",
    ]))?;
    let out = parts.join("nginx");
    let copy = |from: &Path, to: &str| -> Result<()> {
        let to = out.join(to.trim_start_matches(['/', '.']));
        std::fs::create_dir_all(to.parent().unwrap_or(&out))?;
        std::fs::copy(from, &to).map_err(|e| format!("{}: {e}", from.display()))?;
        Ok(())
    };
    copy(&root.join("usr/sbin/nginx"), "usr/sbin/nginx")?;
    // "libz.so.1 => usr/lib/x86_64-linux-gnu/libz.so.1 (0x…)"; what nginx names by its path is the loader.
    for (name, path) in listed.lines().filter_map(|line| line.split_once(" => ")) {
        let path = path.split(" (").next().unwrap_or_default().trim();
        let to = if name.trim().starts_with('/') { name.trim() } else { path };
        copy(&root.join(path), to)?;
    }
    Ok(())
}

/// busybox and its applets, and some users, as in the image that most of the suite's are based on.
fn base(parts: &Path, users: &str, groups: &str) -> Result<Layer> {
    let binary = parts.join("busybox");
    let applets = said(Command::new(&binary).arg("--list"))?;
    let mut layer = LayerBuilder::new();
    for (dir, mode) in [("bin", 0o755), ("etc", 0o755), ("home", 0o755), ("root", 0o700), ("tmp", 0o1777)] {
        layer = layer.dir(dir, mode);
    }
    layer = layer.file("bin/busybox", 0o755, std::fs::read(&binary)?);
    // Hard links: what masks /bin/ls would mask every applet through a symbolic one.
    for name in applets.lines().filter(|name| !matches!(*name, "" | "busybox")) {
        layer = layer.hardlink(&format!("bin/{name}"), "bin/busybox");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                  nobody:x:65534:65534:nobody:/home:/bin/false\n";
    let group = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\nnobody:x:65534:\n";
    Ok(layer
        .file("etc/passwd", 0o644, format!("{passwd}{users}"))
        .file("etc/group", 0o644, format!("{group}{groups}"))
        .build())
}

/// nginx over busybox, with a page on a port.
fn web(parts: &Path, base: &Layer, port: u16) -> Result<Image> {
    let conf = NGINX_CONF.replace("PORT", &port.to_string());
    let mut layer = LayerBuilder::new().tree(&parts.join("nginx"))?.dir("etc", 0o755).dir("etc/nginx", 0o755);
    for dir in [
        "usr/share",
        "usr/share/nginx",
        "usr/share/nginx/html",
        "var",
        "var/lib",
        "var/lib/nginx",
        "var/run",
        "run",
    ] {
        layer = layer.dir(dir, 0o755);
    }
    let layer = layer
        .file("etc/nginx/nginx.conf", 0o644, conf)
        .file("usr/share/nginx/html/index.html", 0o644, "<h1>Welcome to nginx!</h1>\n")
        .build();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Ok(ImageBuilder::new(Flavor::Oci)
        .layer(base, Compression::Gzip, "COPY busybox / # buildkit")
        .layer(&layer, Compression::Zstd, "COPY nginx / # buildkit")
        .set("Env", json!([path]))
        .set("ExposedPorts", json!({ format!("{port}/tcp"): {} }))
        .set("StopSignal", json!("SIGQUIT"))
        .set("Cmd", json!(["nginx", "-g", "daemon off;"]))
        .build())
}

/// A program alone: `/name`.
fn single(parts: &Path, name: &str, mode: u32) -> Result<Image> {
    let layer =
        LayerBuilder::new().dir("etc", 0o755).file(name, mode, std::fs::read(parts.join(name))?).build();
    Ok(ImageBuilder::new(Flavor::Docker)
        .layer(&layer, Compression::Gzip, &format!("COPY {name} / # buildkit"))
        .set("Entrypoint", json!([format!("/{name}")]))
        .set("Cmd", json!(null))
        .build())
}

/// Every image that the suite names, but for those it pulls by a digest, made of what [`prepare`] left.
pub fn images(parts: &Path) -> Result<Vec<Named>> {
    let base_layer = base(parts, "", "")?;
    let busybox = || {
        ImageBuilder::new(Flavor::Oci)
            .layer(&base_layer, Compression::Gzip, "COPY busybox / # buildkit")
            .set("Cmd", json!(["sh"]))
    };
    let httpd = "echo 'httpd: a page on port 80'; exec httpd -f -p 80 -h /srv";
    let page =
        LayerBuilder::new().dir("srv", 0o755).file("srv/index.html", 0o644, "<h1>It works!</h1>\n").build();
    let grouped = base(
        parts,
        "default-user:x:1000:1000:default-user:/home/default-user:/bin/sh\n",
        "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n",
    )?;
    let tested = |file: &str| {
        let layer = LayerBuilder::new().file(file, 0o644, "").build();
        busybox().layer(&layer, Compression::Gzip, &format!("ADD {file} {file} # buildkit")).build()
    };
    let e2e = |name: &str, tag, image| Named {
        repository: format!("e2e-test-images/{name}"),
        tags: vec![tag],
        image,
    };
    let mut all = vec![
        e2e("busybox", "1.29-2", busybox().build()),
        e2e("nginx", "1.14-2", web(parts, &base_layer, 80)?),
        e2e(
            "httpd",
            "2.4.39-4",
            busybox()
                .layer(&page, Compression::Gzip, "COPY srv / # buildkit")
                .set("Cmd", json!(["sh", "-c", httpd]))
                .build(),
        ),
        e2e("nonewprivs", "1.3", single(parts, "nonewprivs", 0o4755)?),
        Named { repository: "pause".into(), tags: vec!["3.9"], image: single(parts, "pause", 0o755)? },
    ];
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let staging =
        |name: &str, tags, image| Named { repository: format!("k8s-staging-cri-tools/{name}"), tags, image };
    all.push(staging(
        &format!("hostnet-nginx-{architecture}"),
        vec!["latest"],
        web(parts, &base_layer, 12003)?,
    ));
    for name in ["test-image-1", "test-image-2", "test-image-3", "test-image-latest"] {
        all.push(staging(name, vec!["latest"], tested(name)));
    }
    all.push(staging("test-image-tags", vec!["1", "2", "3"], tested("same-image")));
    for tag in ["test", "all"] {
        all.push(staging("test-image-tag", vec![tag], tested(tag)));
    }
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:1004"),
        ("username-group", "www-data:1004"),
    ] {
        let image = busybox().set("User", json!(user)).build();
        all.push(staging(&format!("test-image-user-{name}"), vec!["latest"], image));
    }
    let grouped = ImageBuilder::new(Flavor::Oci)
        .layer(&grouped, Compression::Gzip, "COPY busybox / # buildkit")
        .set("User", json!("1000"))
        .set("Cmd", json!(["sh"]))
        .build();
    all.push(staging("test-image-predefined-group", vec!["latest"], grouped));
    Ok(all)
}

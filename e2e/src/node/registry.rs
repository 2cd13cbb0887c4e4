//! A node's registry: docker-registry on loopback of its network namespace.

use super::netns::Netns;
use crate::Result;
use crate::images::{Compression, Flavor, Image, Registry, catalog, digest};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Where every node's registry listens, in a network namespace of its own.
pub const HOST: &str = "127.0.0.1:5000";

/// A running registry; dropping ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts one on a storage directory, and waits until it answers.
    pub fn start(netns: &Netns, dir: &Path, storage: &Path) -> Result<Self> {
        Self::start_at(netns, dir, storage, HOST, "")
    }

    /// The same at another `host:port`, with further lines for its configuration: what `http:` has, indented, then other
    /// sections.
    pub fn start_at(netns: &Netns, dir: &Path, storage: &Path, host: &str, more: &str) -> Result<Self> {
        let name = host.replace(':', "-");
        let config = dir.join(format!("registry-{name}.yml"));
        let text = format!(
            "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {host}\n{more}",
            storage.display()
        );
        std::fs::write(&config, text)?;
        let log = std::fs::File::create(dir.join(format!("registry-{name}.log")))?;
        let child = netns.run(|| {
            Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
        });
        let child = child.map_err(|e| {
            format!("docker-registry: {e}; install Debian's docker-registry (hack/deps does)")
        })?;
        let server = Self { child };
        let answers =
            || netns.run(|| std::net::TcpStream::connect(host)).map(drop).map_err(|e| e.to_string());
        crate::eventually(20, "docker-registry answers", answers);
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pushes with a runtime of its own, from inside the namespace.
pub fn push(netns: &Netns, f: impl AsyncFnOnce(Registry) -> Result<()> + Send) -> Result<()> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(f(Registry::new(HOST)))
    })
}

/// The images that every node's registry has, under `e2e/<name>:latest`.
fn standard() -> Result<Vec<(&'static str, Image)>> {
    Ok(vec![
        ("busybox", catalog::busybox(Flavor::Oci, Compression::Gzip)?),
        ("zstd", catalog::busybox(Flavor::Oci, Compression::Zstd)?),
        ("stacked", catalog::stacked(Flavor::Docker, Compression::Gzip)?),
    ])
}

/// A storage directory with the standard images, made once per version of them and kept below `target`.
pub fn stored() -> Result<PathBuf> {
    static STORED: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    Ok(STORED.get_or_init(|| store().map_err(|e| e.to_string())).clone()?)
}

fn store() -> Result<PathBuf> {
    let images = standard()?;
    let all: String = images.iter().map(|(name, image)| format!("{name} {}\n", image.digest())).collect();
    let key = digest(all.as_bytes());
    let cache = super::place::target().join("e2e-cache");
    let dir = cache.join(format!("registry-{}", key.get(7..23).unwrap_or_default()));
    if dir.exists() {
        return Ok(dir);
    }
    std::fs::create_dir_all(&cache)?;
    let tmp = tempfile::tempdir_in(&cache)?;
    let netns = Netns::new()?;
    let server = Server::start(&netns, tmp.path(), &tmp.path().join("storage"))?;
    push(&netns, async |registry| {
        for (name, image) in &images {
            registry.push(image, &format!("e2e/{name}"), "latest").await?;
        }
        Ok(())
    })?;
    drop(server);
    match std::fs::rename(tmp.path().join("storage"), &dir) {
        // Another test process was first.
        Err(_) if dir.exists() => Ok(dir),
        done => Ok(done.map(|()| dir)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_images_are_stored_and_served() {
        if let Some(why) = super::super::place::lacking() {
            crate::skip(why);
            return;
        }
        let storage = stored().unwrap();
        let tmp = tempfile::tempdir().unwrap();
        let netns = Netns::new().unwrap();
        let _server = Server::start(&netns, tmp.path(), &storage).unwrap();
        push(&netns, async |registry| {
            for (name, image) in standard()? {
                let path = format!("/v2/e2e/{name}/blobs/{}", image.id());
                let answer = registry.request(hyper::Method::GET, &path, None, "").await?;
                assert_eq!(answer.body, image.config.bytes, "{name}");
            }
            Ok(())
        })
        .unwrap();
    }
}

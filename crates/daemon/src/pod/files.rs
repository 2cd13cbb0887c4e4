//! What a pod's containers share as files: hosts, hostname, resolv.conf, /dev/shm; and whether all of a pod is there.

use crate::container::plan::mounts::PodFiles;
use crate::error::{Error, Result};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use strata_api::cri;
use strata_sys::durable;
use strata_sys::mount::{self, Attrs, FsContext};
use strata_wire::plan::IdMap;

/// How large /dev/shm is, in bytes: as with other runtimes.
const SHM_SIZE: &str = "67108864";

/// In the state directory of a pod that is being made, until everything is there and its ID may be told.
const UNFINISHED: &str = "unfinished";

/// A pod's making begins.
pub(crate) fn begin(dir: &Path) -> Result<()> {
    put(dir, UNFINISHED, "")
}

/// All of a pod is there.
pub(crate) fn finish(dir: &Path) -> Result<()> {
    let path = dir.join(UNFINISHED);
    std::fs::remove_file(&path).map_err(|e| Error::internal(format!("unlink {}: {e}", path.display())))
}

/// Whether a pod's making was cut off, by the end of a stratad: after a power cut nothing says so.
pub(crate) fn unfinished(dir: &Path) -> bool {
    dir.join(UNFINISHED).exists()
}

/// Where a pod's files are, in its state directory.
pub(crate) fn paths(dir: &Path, own_ipc: bool) -> PodFiles {
    PodFiles {
        shm: if own_ipc { dir.join("shm") } else { "/dev/shm".into() },
        hosts: dir.join("hosts"),
        hostname: dir.join("hostname"),
        resolv_conf: dir.join("resolv.conf"),
    }
}

/// Writes them. `hosts` follows once the address is known.
pub(crate) fn write(dir: &Path, hostname: &str, dns: Option<&cri::DnsConfig>) -> Result<()> {
    put(dir, "hostname", &format!("{hostname}\n"))?;
    put(dir, "resolv.conf", &resolv_conf(dns)?)
}

/// Writes /etc/hosts; the host's for a pod on the host's network.
pub(crate) fn write_hosts(dir: &Path, hostname: &str, ips: &[IpAddr], host_network: bool) -> Result<()> {
    if host_network {
        let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        return put(dir, "hosts", &own);
    }
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for ip in ips {
        let _ = writeln!(text, "{ip}\t{hostname}");
    }
    put(dir, "hosts", &text)
}

fn put(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    // Written in place: containers have the file itself bound, not its name.
    std::fs::write(&path, text).map_err(|e| Error::internal(format!("write {}: {e}", path.display())))?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))
        .map_err(|e| Error::internal(format!("chmod {}: {e}", path.display())))
}

/// resolv.conf(5) from what the pod says, or the host's.
fn resolv_conf(dns: Option<&cri::DnsConfig>) -> Result<String> {
    let Some(dns) = dns.filter(|d| !(d.servers.is_empty() && d.searches.is_empty() && d.options.is_empty()))
    else {
        return Ok(std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    };
    let words = dns.servers.iter().chain(&dns.searches).chain(&dns.options);
    if let Some(bad) = words.clone().find(|w| w.chars().any(|c| c.is_whitespace() || c.is_control())) {
        return Err(Error::invalid(format!(
            "DNS configuration {bad:?}: must not hold blanks or control characters"
        )));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        let _ = writeln!(text, "search {}", dns.searches.join(" "));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !dns.options.is_empty() {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    Ok(text)
}

/// Gives the files to the root of the pod's user namespace, if it has one: containers may write them.
pub(crate) fn give(dir: &Path, ids: Option<IdMap>) -> Result<()> {
    let Some(ids) = ids else { return Ok(()) };
    for name in ["hosts", "hostname", "resolv.conf"] {
        let path = dir.join(name);
        std::os::unix::fs::lchown(&path, Some(ids.uids.outside), Some(ids.gids.outside))
            .map_err(|e| Error::internal(format!("chown {}: {e}", path.display())))?;
    }
    Ok(())
}

/// Mounts the pod's /dev/shm.
pub(crate) fn mount_shm(dir: &Path, ids: Option<IdMap>) -> Result<()> {
    let shm = dir.join("shm");
    let make = || -> Result<(), strata_sys::Error> {
        durable::mkdir_all(&shm, 0o1777)?;
        let fs = FsContext::new("tmpfs")?;
        fs.set_string("mode", "1777")?;
        fs.set_string("size", SHM_SIZE)?;
        if let Some(ids) = ids {
            fs.set_string("uid", ids.uids.outside.to_string())?;
            fs.set_string("gid", ids.gids.outside.to_string())?;
        }
        let attrs = Attrs { nosuid: true, nodev: true, noexec: true, ..Attrs::default() };
        mount::attach(fs.mount(attrs)?, durable::open_dir(&shm)?)
    };
    make().map_err(|e| Error::internal(format!("the pod's /dev/shm: {e}")))
}

/// Unmounts it; absence is fine.
pub(crate) fn unmount_shm(dir: &Path) {
    use rustix::io::Errno;
    match mount::unmount(dir.join("shm")) {
        Err(e) if !matches!(e.errno, Errno::INVAL | Errno::NOENT) => {
            tracing::warn!(dir = %dir.display(), error = %e, "the pod's /dev/shm cannot be unmounted");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_says_what_the_pod_says() {
        let dns = cri::DnsConfig {
            servers: vec!["10.0.0.10".into()],
            searches: vec!["a.local".into(), "b".into()],
            options: vec!["ndots:5".into()],
        };
        let text = resolv_conf(Some(&dns)).unwrap();
        assert_eq!(text, "search a.local b\nnameserver 10.0.0.10\noptions ndots:5\n");
        let hostile =
            cri::DnsConfig { servers: vec!["1.1.1.1\nnameserver 6.6.6.6".into()], ..Default::default() };
        assert!(resolv_conf(Some(&hostile)).is_err());
    }

    #[test]
    fn hosts_names_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        write_hosts(dir.path(), "web", &["10.88.0.2".parse().unwrap()], false).unwrap();
        let text = std::fs::read_to_string(dir.path().join("hosts")).unwrap();
        assert!(text.ends_with("10.88.0.2\tweb\n"), "{text}");
    }
}

//! Records of addresses that came back empty from a power cut.
//!
//! The plugin host-local keeps a file for each address that it has given, `<dataDir>/<network>/<address>`, which names the pod,
//! and does not sync it. After a power cut a file system may have the name and not the text: no DEL finds its pod in such a
//! file, and nobody gets the address any more. Whoever has had it is gone: nothing of an earlier boot runs.
//!
//! The plugin writes its files under a lock, `<dataDir>/<network>/lock`. What is empty while that is held here is not about to be
//! written.

use super::list::{List, type_of};
use crate::error::{Error, Kind, Result};
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use strata_sys::durable;

/// The plugin's program.
const PLUGIN: &str = "host-local";
/// Where it keeps its files if its configuration does not say.
const DEFAULT_DIR: &str = "/var/lib/cni/networks";
/// The file in the state directory that says for which boot this has been done, and in which directories: a line each.
const MARK: &str = "addresses-of-boot";
/// How long a plugin is waited for that has the lock, the first time: none should run yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where empty records are still to be removed in this boot.
#[derive(Debug)]
pub(crate) struct Boot {
    state: PathBuf,
    id: String,
    looked: Mutex<Looked>,
}

/// The plugin's directories that have been looked through.
#[derive(Debug, Default)]
struct Looked {
    /// Nothing of an earlier boot is left in these.
    done: BTreeSet<PathBuf>,
    /// These could not be.
    failed: BTreeSet<PathBuf>,
}

impl Boot {
    /// Of this boot, as an earlier daemon has noted in the state directory, which need not be there yet.
    pub(crate) fn new(state: &Path, id: &str) -> Self {
        let text = std::fs::read_to_string(state.join(MARK)).unwrap_or_default();
        let mut lines = text.lines();
        let noted = lines.next().is_some_and(|line| line == id);
        let done = lines.filter(|_| noted).map(PathBuf::from).collect();
        Self { state: state.into(), id: id.into(), looked: Mutex::new(Looked { done, ..Looked::default() }) }
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a network has a directory in which it has to be done.
    pub(super) fn due(&self, list: &List) -> bool {
        dirs(list).any(|dir| !self.looked().done.contains(&dir))
    }

    /// Removes a network's empty records where that has not been done in this boot, and notes that it has. A failure is warned
    /// of once, and leaves it due.
    pub(super) fn mend(&self, list: &List) {
        for dir in dirs(list) {
            let (done, again) = {
                let looked = self.looked();
                (looked.done.contains(&dir), looked.failed.contains(&dir))
            };
            if done {
                continue;
            }
            match mend(&list.name, &dir, if again { Duration::ZERO } else { PATIENCE }) {
                Ok(()) => {
                    self.looked().done.insert(dir);
                    self.note();
                }
                Err(e) if self.looked().failed.insert(dir.clone()) => tracing::warn!(
                    network = list.name,
                    dir = %dir.display(),
                    error = %e,
                    "empty records of addresses cannot be removed yet; such an address stays taken until they can, or until its file is deleted"
                ),
                Err(_) => {}
            }
        }
    }

    fn note(&self) {
        let mut text = self.id.clone();
        for dir in &self.looked().done {
            text.push('\n');
            text.push_str(&dir.to_string_lossy());
        }
        // Pods make it, and there may have been none yet.
        let noted = durable::mkdir_all(&self.state, 0o711)
            .and_then(|()| durable::open_dir(&self.state))
            .and_then(|dir| durable::write_file_volatile(dir, MARK.as_ref(), text.as_bytes(), 0o600));
        if let Err(e) = noted {
            tracing::warn!(error = %e, "the next start looks for empty records of addresses again");
        }
    }
}

/// Where the plugin has files for a list.
fn dirs(list: &List) -> impl Iterator<Item = PathBuf> {
    list.plugins.iter().filter_map(|plugin| {
        let Value::Object(ipam) = plugin.get("ipam")? else { return None };
        let dir = ipam.get("dataDir").and_then(Value::as_str).filter(|dir| !dir.is_empty());
        let own = type_of(ipam) == PLUGIN;
        own.then(|| Path::new(dir.unwrap_or(DEFAULT_DIR)).join(&list.name))
    })
}

fn mend(network: &str, path: &Path, patience: Duration) -> Result<()> {
    let failed = |e: rustix::io::Errno| Error::internal(e.to_string());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        // No address of it has ever been given.
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    if empty(&dir).map_err(failed)?.is_empty() {
        return Ok(());
    }
    let _lock = lock(&dir, patience)?;
    for address in empty(&dir).map_err(failed)? {
        rustix::fs::unlinkat(&dir, address.to_string(), AtFlags::empty()).map_err(failed)?;
        tracing::warn!(
            network,
            %address,
            "host-local's record of the address came back empty from a power cut and was removed: the address is free again"
        );
    }
    Ok(())
}

/// The addresses whose records are empty.
fn empty(dir: impl AsFd) -> rustix::io::Result<Vec<IpAddr>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        let Some(address) = address(entry.file_name()) else { continue };
        let stat = match rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(e) => return Err(e),
        };
        if FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_size == 0 {
            found.push(address);
        }
    }
    Ok(found)
}

/// The address that a name is, written as the plugin writes it.
fn address(name: &CStr) -> Option<IpAddr> {
    let name = name.to_str().ok()?;
    name.parse().ok().filter(|address: &IpAddr| address.to_string() == name)
}

fn lock(dir: impl AsFd, patience: Duration) -> Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, "lock", flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| Error::internal(format!("its lock: {e}")))?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::new(Kind::Unavailable, "a plugin holds its lock"));
            }
            Err(e) => return Err(Error::internal(format!("its lock: {e}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(ipam: &Value) -> List {
        let list =
            json!({ "name": "net", "cniVersion": "1.0.0", "plugins": [{ "type": "bridge", "ipam": ipam }] });
        serde_json::from_value(list).unwrap()
    }

    #[test]
    fn only_empty_records_of_addresses_go_and_once_a_boot() {
        let at = tempfile::tempdir().unwrap();
        let dir = at.path().join("data/net");
        std::fs::create_dir_all(&dir).unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        let has = |name: &str| dir.join(name).exists();
        for name in ["10.0.0.2", "fd00::2", "last_reserved_ip.0", "10.0.0.256", "FD00::3"] {
            put(name, "");
        }
        put("10.0.0.3", "pod\r\neth0");
        let ours = list(&json!({ "type": "host-local", "dataDir": at.path().join("data") }));
        // No pod has made it yet.
        let state = &at.path().join("state");
        let boot = Boot::new(state, "one");
        assert!(boot.due(&ours));
        boot.mend(&list(&json!({ "type": "other", "dataDir": at.path().join("data") })));
        assert!(has("10.0.0.2") && boot.due(&ours));
        boot.mend(&ours);
        for (name, stays) in [
            ("10.0.0.2", false),
            ("fd00::2", false),
            ("10.0.0.3", true),
            ("last_reserved_ip.0", true),
            ("10.0.0.256", true),
            ("FD00::3", true),
        ] {
            assert_eq!(has(name), stays, "{name}");
        }
        assert!(
            !boot.due(&ours) && !Boot::new(state, "one").due(&ours) && Boot::new(state, "two").due(&ours)
        );
        // What is empty from now on is no power cut's.
        put("10.0.0.2", "");
        for boot in [boot, Boot::new(state, "one")] {
            boot.mend(&ours);
        }
        assert!(has("10.0.0.2"));
    }

    #[test]
    fn what_a_plugin_is_about_to_write_is_left_alone() {
        let at = tempfile::tempdir().unwrap();
        let dir = at.path().join("net");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("10.0.0.2"), "").unwrap();
        let held = lock(durable::open_dir(&dir).unwrap(), PATIENCE).unwrap();
        let boot = Boot::new(at.path(), "one");
        let list = list(&json!({ "type": "host-local", "dataDir": at.path() }));
        boot.mend(&list);
        assert!(dir.join("10.0.0.2").exists());
        assert!(boot.due(&list) && Boot::new(at.path(), "one").due(&list));
        drop(held);
        boot.mend(&list);
        assert!(!dir.join("10.0.0.2").exists() && !boot.due(&list));
    }

    /// Another name or directory, later in the same boot.
    #[test]
    fn each_directory_has_its_turn() {
        let at = tempfile::tempdir().unwrap();
        let state = &at.path().join("state");
        let boot = Boot::new(state, "one");
        let networks = ["a", "b"].map(|data| {
            let dir = at.path().join(data);
            std::fs::create_dir_all(dir.join("net")).unwrap();
            std::fs::write(dir.join("net/10.0.0.2"), "").unwrap();
            (list(&json!({ "type": "host-local", "dataDir": dir })), dir.join("net/10.0.0.2"))
        });
        for (list, record) in &networks {
            assert!(boot.due(list) && Boot::new(state, "one").due(list));
            boot.mend(list);
            assert!(!record.exists() && !boot.due(list));
        }
        let next = Boot::new(state, "one");
        assert!(networks.iter().all(|(list, _)| !next.due(list)));
    }

    #[test]
    fn where_the_plugin_keeps_its_files() {
        let of = |ipam: Value| dirs(&list(&ipam)).collect::<Vec<_>>();
        assert_eq!(of(json!({ "type": "host-local" })), [Path::new("/var/lib/cni/networks/net")]);
        assert_eq!(of(json!({ "type": "host-local", "dataDir": "/run/x" })), [Path::new("/run/x/net")]);
        assert!(of(json!({ "type": "dhcp" })).is_empty());
    }
}

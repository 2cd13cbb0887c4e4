//! SELinux: whether this kernel runs it, which labels pods and containers get, and files that are given one.
//!
//! ```text
//!   CRI's options ─┐                     ┌─▶ process: execve(2), keys
//!   lxc_contexts ──┼─▶ mod.rs ─▶ Labels ─┤
//!   pod's level ───┘   (checked by the   └─▶ file: mounts by `context=`, relabel.rs for what is the node's
//!                       loaded policy)
//! ```
//!
//! * [`context`]: contexts and levels, without I/O.
//! * [`relabel`]: labels of files that exist.

pub(crate) mod context;
mod relabel;

pub(crate) use relabel::{check as check_relabel, one as relabel_one, tree as relabel_tree};

use crate::error::{Error, Result};
use context::{Context, Defaults};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use strata_api::cri;

/// `SELINUX_MAGIC` (linux/magic.h).
const MAGIC: u64 = 0xf97c_ff8c;

/// The SELinux of this kernel.
#[derive(Debug)]
pub(crate) struct SeLinux {
    /// Where selinuxfs is mounted.
    fs: PathBuf,
    /// Where the policy's own configuration is (selinux_config(5)).
    etc: PathBuf,
    /// Whether containers are labelled that do not ask for it.
    all: bool,
}

/// A container's labels, as its record keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    /// That of its processes; none: what the policy makes of a program that the shim runs.
    pub(crate) process: Option<String>,
    /// That of everything that it finds mounted; none: the policy does not say what files of containers are.
    pub(crate) file: Option<String>,
}

/// What decides over a container's labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Its own options.
    pub(crate) own: Option<&'a cri::SeLinuxOption>,
    /// Its pod's options.
    pub(crate) pod: Option<&'a cri::SeLinuxOption>,
    /// Its pod's level, where the pod has one.
    pub(crate) level: Option<&'a str>,
    /// Whether nothing is to confine it: it is privileged, or says so.
    pub(crate) free: bool,
    /// Whether it is in the node's PID or IPC namespace.
    pub(crate) with_node: bool,
}

/// What containers of the node's own ask for (Cilium's, drivers of storage): to be confined by nothing. A kernel without SELinux
/// does just that.
const FREE_TYPE: &str = "spc_t";

impl SeLinux {
    /// That of this kernel; `all`: containers are labelled that do not ask for it.
    pub(crate) fn of_kernel(all: bool) -> Self {
        Self { fs: "/sys/fs/selinux".into(), etc: "/etc/selinux".into(), all }
    }

    /// Whether this kernel runs it: selinuxfs is mounted, and there is a policy, without which processes have no context but
    /// the name of their initial one.
    pub(crate) fn enabled(&self) -> bool {
        let mounted = rustix::fs::statfs(&self.fs).is_ok_and(|s| u64::try_from(s.f_type) == Ok(MAGIC));
        mounted && std::fs::read_to_string("/proc/self/attr/current").is_ok_and(|own| own.contains(':'))
    }

    /// Refuses a pod whose containers would be refused one by one.
    ///
    /// # Errors
    /// As [`Self::labels`].
    pub(crate) fn check_pod(&self, options: Option<&cri::SeLinuxOption>, privileged: bool) -> Result<()> {
        let asked = Asked { own: None, pod: options, level: Some("s0"), free: privileged, with_node: false };
        self.labels(&asked).map(drop)
    }

    /// The labels of a container; `None` if it gets none.
    ///
    /// # Errors
    /// [`FailedPrecondition`](crate::error::Kind::FailedPrecondition) if this kernel runs no SELinux, or the node does not say what
    /// is missing of a label; [`InvalidArgument`](crate::error::Kind::InvalidArgument) for one that the policy does not know.
    pub(crate) fn labels(&self, asked: &Asked<'_>) -> Result<Option<Labels>> {
        let wanted = context::merge(asked.own, asked.pod);
        let named = wanted != cri::SeLinuxOption::default();
        context::check_options(&wanted)?;
        if !self.enabled() {
            return match named && !asked.free && wanted.r#type != FREE_TYPE {
                false => Ok(None),
                true => Err(Error::precondition(
                    "an SELinux label was asked for, but this kernel does not run it; boot with selinux=1, or leave \
                     seLinuxOptions out",
                )),
            };
        }
        if !named && !self.all {
            return Ok(None);
        }
        let defaults = self.defaults()?;
        let level = self.multi_level().then_some(asked.level).flatten();
        // One of the node's own is not kept apart from it, unless by a type that is asked for.
        let free = asked.free || asked.with_node;
        let process = match !free || !wanted.r#type.is_empty() {
            true => Some(context::process(&wanted, level, defaults.as_ref()).map_err(|missing| {
                Error::precondition(format!(
                    "SELinux label: {missing} is not said, and this node's policy has no {}; install its policy for containers \
                     (container-selinux), or say user, role and type",
                    self.contexts().map_or_else(|_| "lxc_contexts".into(), |p| p.display().to_string())
                ))
            })?),
            false => None,
        };
        let file = defaults.as_ref().map(|own| context::file(&wanted, level, own));
        for context in process.iter().chain(&file) {
            self.check(context)?;
        }
        let text = |context: Context| context.to_string();
        Ok(Some(Labels { process: process.map(text), file: file.map(text) }))
    }

    /// The level of a new pod: what it asks for, or a pair of categories that no other has, of which `taken` tells. `None` where
    /// nobody needs one.
    ///
    /// # Errors
    /// If all pairs are taken.
    pub(crate) fn level(
        &self,
        options: Option<&cri::SeLinuxOption>,
        taken: impl FnOnce() -> HashSet<String>,
    ) -> Result<Option<String>> {
        if !self.enabled() || !self.multi_level() {
            return Ok(None);
        }
        if let Some(options) = options.filter(|o| !o.level.is_empty()) {
            return Ok(Some(options.level.clone()));
        }
        let own = self.defaults()?.and_then(|d| d.process.level);
        let sensitivity = own.as_deref().and_then(|l| l.split([':', '-']).next()).unwrap_or("s0");
        context::categories(sensitivity, &taken()).map(Some)
    }

    /// Whether the loaded policy has levels.
    fn multi_level(&self) -> bool {
        std::fs::read_to_string(self.fs.join("mls")).is_ok_and(|text| text.trim() == "1")
    }

    /// Where the contexts of containers are said: below `/etc/selinux/<SELINUXTYPE>` (selinux_lxc_contexts_path(3)).
    fn contexts(&self) -> Result<PathBuf> {
        let path = self.etc.join("config");
        let text = read(&path)?.unwrap_or_default();
        let kind =
            text.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted");
        Ok(self.etc.join(kind.trim()).join("contexts/lxc_contexts"))
    }

    fn defaults(&self) -> Result<Option<Defaults>> {
        let path = self.contexts()?;
        let Some(text) = read(&path)? else { return Ok(None) };
        Defaults::parse(&text).map(Some).map_err(|e| e.context(path.display().to_string()))
    }

    /// Asks the kernel whether the policy knows a context.
    fn check(&self, context: &Context) -> Result<()> {
        use rustix::fs::{Mode, OFlags};
        let text = context.to_string();
        let ask = || {
            let file =
                rustix::fs::open(self.fs.join("context"), OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(&file, text.as_bytes()).map(drop)
        };
        match ask() {
            Ok(()) => Ok(()),
            Err(Errno::INVAL) => Err(Error::invalid(format!(
                "SELinux label {text:?}: the loaded policy knows no such context; check user, role, type and level"
            ))),
            Err(e) => Err(Error::precondition(format!(
                "SELinux label {text:?} cannot be checked with {}: {e}",
                self.fs.join("context").display()
            ))),
        }
    }
}

/// A file's text; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::precondition(format!("{}: {e}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn node(dir: &Path) -> SeLinux {
        SeLinux { fs: dir.join("fs"), etc: dir.join("etc"), all: false }
    }

    #[test]
    fn labels_are_refused_where_nothing_applies_them() {
        let dir = tempfile::tempdir().unwrap();
        let none = node(dir.path());
        assert!(!none.enabled());
        let label = cri::SeLinuxOption { level: "s0:c1,c2".into(), ..Default::default() };
        let asked = |own, free| Asked { own, pod: None, level: None, free, with_node: false };
        let refused = none.labels(&asked(Some(&label), false)).unwrap_err();
        assert_eq!(refused.kind(), Kind::FailedPrecondition, "{refused}");
        assert_eq!(none.check_pod(Some(&label), false).unwrap_err().kind(), Kind::FailedPrecondition);
        let empty = cri::SeLinuxOption::default();
        let unconfined =
            cri::SeLinuxOption { level: "s0".into(), r#type: "spc_t".into(), ..Default::default() };
        let nothing_asked = [asked(None, false), asked(Some(&empty), false), asked(Some(&label), true)];
        for nothing in nothing_asked.into_iter().chain([asked(Some(&unconfined), false)]) {
            assert_eq!(none.labels(&nothing).unwrap(), None);
        }
        assert_eq!(none.level(Some(&label), HashSet::new).unwrap(), None);
        let bad = cri::SeLinuxOption { level: "s0,c1".into(), ..Default::default() };
        assert_eq!(none.labels(&asked(Some(&bad), true)).unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn the_policys_contexts_are_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let own = node(dir.path());
        assert!(own.contexts().unwrap().ends_with("etc/targeted/contexts/lxc_contexts"));
        assert!(own.defaults().unwrap().is_none());
        std::fs::create_dir_all(dir.path().join("etc/mine/contexts")).unwrap();
        std::fs::write(
            dir.path().join("etc/config"),
            "# SELINUXTYPE=no\nSELINUX=enforcing\nSELINUXTYPE=mine\n",
        )
        .unwrap();
        let text = "process = \"u:r:c_t:s0\"\nfile = \"u:object_r:f_t:s0\"\n";
        std::fs::write(dir.path().join("etc/mine/contexts/lxc_contexts"), text).unwrap();
        assert_eq!(own.defaults().unwrap().unwrap().process.kind, "c_t");
        std::fs::write(dir.path().join("etc/mine/contexts/lxc_contexts"), "process = \"x\"\n").unwrap();
        let error = own.defaults().unwrap_err().to_string();
        assert!(error.contains("lxc_contexts"), "{error}");
    }
}

//! SELinux labels of what a container finds mounted and has not been made for it alone: its pod's files, and volumes whose mounts
//! say `selinux_relabel`. Everything else gets its label when it is mounted.

use super::record::ContainerRecord;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pod::{Pod, files};
use crate::selinux::{self, Labels};
use std::path::Path;
use strata_api::cri;
use strata_wire::{ContainerPlan, LABELS_SINCE};

/// The mounts that are to be relabelled; none for a container without a label for files.
pub(super) fn to_relabel<'a>(
    config: &'a cri::ContainerConfig,
    labels: Option<&Labels>,
) -> impl Iterator<Item = &'a cri::Mount> {
    let labelled = labels.is_some_and(|labels| labels.file.is_some());
    config.mounts.iter().filter(move |m| labelled && m.selinux_relabel && !m.host_path.is_empty())
}

/// That a shim which speaks this version applies the labels of a plan, and does not pass over them.
///
/// # Errors
/// [`FailedPrecondition`](crate::error::Kind::FailedPrecondition)
pub(super) fn know_labels(plan: &ContainerPlan, version: u32) -> Result<()> {
    let labelled = plan.mount_label.is_some() || plan.process.selinux.is_some();
    if version >= LABELS_SINCE || !labelled {
        return Ok(());
    }
    Err(Error::precondition(
        "the container has SELinux labels, which the pod's shim, of an older release, does not apply; make the pod anew",
    ))
}

impl Node {
    /// Gives them the container's label, as other runtimes do: of containers with different levels in one pod, the last one's.
    pub(super) fn label_files(&self, pod: &Pod, record: &ContainerRecord) -> Result<()> {
        let Some(label) = record.selinux.as_ref().and_then(|labels| labels.file.as_deref()) else {
            return Ok(());
        };
        let own_ipc = pod.record().namespaces.ipc.is_some();
        let shared = files::paths(pod.state_dir(), own_ipc);
        for file in [&shared.hosts, &shared.hostname, &shared.resolv_conf] {
            selinux::relabel_one(file, label)?;
        }
        if own_ipc {
            selinux::relabel_one(&shared.shm, label)?;
        }
        for mount in to_relabel(&record.config, record.selinux.as_ref()) {
            let all = record.extras.shared_mounts.contains(&mount.container_path);
            let shared = all.then(|| selinux::context::shared(label));
            selinux::relabel_tree(Path::new(&mount.host_path), shared.as_deref().unwrap_or(label))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_shim_is_given_no_labels() {
        let mut plan = ContainerPlan::default();
        assert!(know_labels(&plan, 1).is_ok());
        plan.mount_label = Some("u:r:t:s0".into());
        assert!(know_labels(&plan, strata_wire::VERSION).is_ok());
        let error = know_labels(&plan, LABELS_SINCE - 1).unwrap_err();
        assert!(error.to_string().contains("older release"), "{error}");
    }

    #[test]
    fn only_volumes_that_say_so_are_relabelled() {
        let mount = |host: &str, relabel| cri::Mount {
            host_path: host.into(),
            selinux_relabel: relabel,
            ..Default::default()
        };
        let mounts = vec![mount("/a", true), mount("/b", false), mount("", true)];
        let config = cri::ContainerConfig { mounts, ..Default::default() };
        let of = |labels: Option<&Labels>| {
            to_relabel(&config, labels).map(|m| m.host_path.as_str()).collect::<Vec<_>>()
        };
        let labels = Labels { process: None, file: Some("u:object_r:t:s0".into()) };
        assert_eq!(of(Some(&labels)), ["/a"]);
        assert!(of(None).is_empty() && of(Some(&Labels::default())).is_empty());
    }
}

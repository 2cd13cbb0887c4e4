//! What concerns the network rather than one pod: readiness (STATUS), what is left behind (GC), whether pods are still as they
//! were made (CHECK), and the list that is made from a template.

use super::exec::{Call, Failure, code};
use super::list::{self, List, Version, type_of};
use super::{Cni, Journal, PREV_RESULT, template, with_network};
use crate::error::{Error, Result};
use crate::net::{Held, PodCidrs};
use crate::regular;
use crate::tasks::blocking;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use strata_sys::durable;

/// The first version with STATUS and GC.
const STATUS_AND_GC: Version = Version(1, 1, 0);
/// How long an answer of STATUS counts.
const FRESH: Duration = Duration::from_secs(2);
/// How long a plugin may take for STATUS: the kubelet waits for it.
const PROMPT: Duration = Duration::from_secs(10);
/// The file that is made from the template: behind what an add-on calls 00 to 09, before its usual names.
pub(super) const OWN_LIST: &str = "10-strata-net.conflist";

/// What STATUS has answered.
#[derive(Debug)]
pub(super) struct Probe {
    list: List,
    at: Instant,
    answer: Result<()>,
}

impl Cni {
    /// Whether a network's plugins are there and say that they can serve ADD.
    pub(super) async fn ready(&self, list: List) -> Result<()> {
        for plugin in &list.plugins {
            self.0.runner.find(type_of(plugin)).map_err(|e| e.context(format!("network {}", list.name)))?;
        }
        if !list.at_least(STATUS_AND_GC) {
            return Ok(());
        }
        // Several who ask at once get one answer.
        let mut probe = self.0.probe.lock().await;
        if let Some(known) = probe.as_ref().filter(|p| p.list == list && p.at.elapsed() < FRESH) {
            return known.answer.clone();
        }
        let answer = self.ask_status(&list).await;
        *probe = Some(Probe { list, at: Instant::now(), answer: answer.clone() });
        answer
    }

    async fn ask_status(&self, list: &List) -> Result<()> {
        for plugin in &list.plugins {
            let config = with_network(list, plugin);
            let limit = PROMPT.min(self.0.runner.timeout);
            if let Err(failure) =
                self.0.runner.run_for(&of_network("STATUS", list, plugin, &config), limit).await
            {
                return Err(match failure.code {
                    Some(code::LIMITED) => {
                        failure.error.context("pods that run may lack connections, and none can be added")
                    }
                    _ => failure.error,
                });
            }
        }
        Ok(())
    }

    /// Has plugins remove what no pod holds, and looks at what the pods hold that run. In the background: plugins that hang
    /// delay nothing but that.
    pub(super) fn begin_upkeep(&self, live: Vec<(Held, Journal)>) {
        self.0.gc_due.store(true, Ordering::SeqCst);
        let cni = self.clone();
        tokio::spawn(async move {
            for (held, journal) in &live {
                if let Err(e) = cni.check(held, journal).await {
                    tracing::warn!(
                        pod = crate::pod::short(&held.pod_id),
                        error = %e,
                        "the pod's network is not as it was made; replacing the pod helps"
                    );
                }
            }
            // Without a list it is done once there is one.
            let _ = cni.list().await;
        });
    }

    /// Frees the addresses whose records a power cut has emptied, if that has not been done since the machine started.
    pub(super) async fn mend_if_due(&self, list: &List) {
        // Whoever comes meanwhile waits: no ADD comes before it.
        let _turn = self.0.mending.lock().await;
        if !self.0.boot.due(list) {
            return;
        }
        let (cni, list) = (self.clone(), list.clone());
        let mended = blocking(move || {
            cni.0.boot.mend(&list);
            Ok(())
        });
        if let Err(e) = mended.await {
            tracing::warn!(error = %e, "empty records of addresses");
        }
    }

    /// Begins GC if it has not been done since this daemon started.
    pub(super) fn collect_if_due(&self, list: &List) {
        if !self.0.gc_due.swap(false, Ordering::SeqCst) {
            return;
        }
        if list.disable_gc || !list.at_least(STATUS_AND_GC) {
            return;
        }
        let (cni, list) = (self.clone(), list.clone());
        tokio::spawn(async move {
            // Nothing is attached or detached meanwhile: what is valid would change.
            let _alone = cni.0.traffic.write().await;
            for plugin in &list.plugins {
                if let Err(failure) = cni.collect(&list, plugin).await {
                    tracing::warn!(error = %failure.error, "what earlier pods left behind may still be there");
                }
            }
        });
    }

    async fn collect(&self, list: &List, plugin: &Map<String, Value>) -> Result<(), Failure> {
        let held: Vec<Value> = {
            let pods = self.pods();
            let of_network = pods.iter().filter(|(_, pod)| pod.network == list.name);
            of_network.map(|(id, pod)| json!({ "containerID": id, "ifname": pod.interface })).collect()
        };
        let mut config = with_network(list, plugin);
        // The specification had the second name by mistake; plugins know either.
        for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            config.insert(name.into(), held.clone().into());
        }
        let limit = PROMPT.min(self.0.runner.timeout);
        self.0.runner.run_for(&of_network("GC", list, plugin, &config), limit).await.map(drop)
    }

    /// Whether a pod's network is as ADD has made it.
    async fn check(&self, held: &Held, journal: &Journal) -> Result<()> {
        let result = held.attachment.as_ref().and_then(|a| a.result.as_ref());
        let Some(result) =
            result.filter(|_| journal.list.at_least(PREV_RESULT) && !journal.list.disable_check)
        else {
            return Ok(());
        };
        let _traffic = self.0.traffic.read().await;
        // Detached in the meantime?
        let Some(pod) = self.pods().get(&held.pod_id).cloned() else { return Ok(()) };
        let mut quiet = pod.quiet.lock().await;
        if !self.pods().contains_key(&held.pod_id) {
            return Ok(());
        }
        let was_quiet = std::mem::replace(&mut *quiet, false);
        let netns = held.netns.as_ref().map(|n| n.to_string_lossy()).unwrap_or_default();
        let mut checked = Ok(());
        for plugin in &journal.list.plugins {
            let answer = self.call("CHECK", (&held.pod_id, &netns), journal, plugin, Some(result)).await;
            if let Err(failure) = answer {
                checked = Err(failure.error);
                break;
            }
        }
        // What an earlier daemon may have left running is looked for before the pod is detached, and not while it runs.
        *quiet = was_quiet;
        checked
    }
}

/// A call that concerns no pod.
fn of_network<'a>(
    verb: &'static str,
    list: &'a List,
    plugin: &'a Map<String, Value>,
    config: &'a Map<String, Value>,
) -> Call<'a> {
    let (network, program) = (list.name.as_str(), type_of(plugin));
    Call { verb, network, program, config, pod_id: "", netns: "", interface: "", args: "" }
}

/// Makes the list from the template, unless somebody else has put one there: then that one counts.
pub(super) fn write_list(template: &Path, dir: &Path, cidrs: &PodCidrs) -> Result<()> {
    let own = dir.join(OWN_LIST);
    if let Some(other) = list::files(dir)?.into_iter().find(|f| *f != own) {
        tracing::info!(list = %other.display(), "there is a network list already; the template is not used");
        return Ok(());
    }
    let what = |e: Error| e.context(format!("cni_conf_template {}", template.display()));
    let text =
        regular::read_text(template, list::MAX_SIZE).map_err(|e| what(Error::precondition(e.to_string())))?;
    let text = template::render(&text, cidrs).map_err(what)?;
    if let Err(e) = serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        return Err(what(Error::precondition(format!("filled in, it is no JSON: {e}"))));
    }
    durable::mkdir_all(dir, 0o755)
        .and_then(|()| durable::open_dir(dir))
        .and_then(|fd| durable::write_file(fd, OWN_LIST.as_ref(), text.as_bytes(), 0o644))
        .map_err(|e| Error::precondition(format!("{}: {e}", own.display())))?;
    tracing::info!(list = %own.display(), cidr = cidrs.texts().join(","), "network list made from the template");
    Ok(())
}

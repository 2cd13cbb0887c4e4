//! RuntimeClass handlers: which there are, and what each changes of the built-in runtime.
//!
//! A pod keeps what its handler said when it was made ([`PodRecord::defaults`](crate::pod::record::PodRecord)), so that one
//! whose handler has gone from the configuration goes on as it began.

mod users;

pub(crate) use users::{container_leaves_it, mapped_mounts};

use crate::config::{Handler, HandlerNetwork, Handlers, STRATA, SeccompDefault};
use crate::container::plan::security::Choice;
use crate::error::{Error, Result};
use crate::node::Node;
use std::collections::BTreeSet;
use std::path::Path;

/// Every handler's name; the empty one is that of pods without a RuntimeClass.
pub(crate) fn names(configured: &Handlers) -> BTreeSet<&str> {
    configured.keys().map(String::as_str).chain(["", STRATA]).collect()
}

/// What a handler changes.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a name that is not configured, with those that are.
pub(crate) fn find(configured: &Handlers, name: &str) -> Result<Handler> {
    let own = if name.is_empty() { STRATA } else { name };
    match configured.get(own) {
        Some(handler) => Ok(handler.clone()),
        None if own == STRATA => Ok(Handler::default()),
        None => {
            let known: Vec<_> = names(configured).into_iter().filter(|n| !n.is_empty()).collect();
            Err(Error::invalid(format!(
                "no runtime handler {name:?} on this node, only {}: set the RuntimeClass's handler to one of them, or \
                 add [runtime.handlers.{name}] to the configuration",
                known.join(", ")
            )))
        }
    }
}

impl Handler {
    /// Refuses what the handler does not run.
    ///
    /// # Errors
    /// [`PermissionDenied`](crate::error::Kind::PermissionDenied).
    pub(crate) fn check_privileged(&self, name: &str, privileged: bool, what: &str) -> Result<()> {
        if self.privileged || !privileged {
            return Ok(());
        }
        let name = if name.is_empty() { STRATA } else { name };
        Err(Error::new(
            crate::error::Kind::PermissionDenied,
            format!(
                "the runtime handler {name:?} runs no privileged {what}: use another RuntimeClass, or set \
                 privileged = true in [runtime.handlers.{name}]"
            ),
        ))
    }

    /// The seccomp profile of a container: what it asks for, and where it does not say, the handler's. A handler's file is also
    /// what RuntimeDefault means; a handler without any profile does not take it from those who ask for one.
    pub(crate) fn seccomp(&self, asked: Option<Choice>, directory: &Path) -> Choice {
        match (asked, &self.seccomp) {
            (None | Some(Choice::Default), SeccompDefault::File(path)) => Choice::File(directory.join(path)),
            (None, SeccompDefault::Unconfined) => Choice::Unconfined,
            (None, SeccompDefault::Runtime) => Choice::Default,
            (Some(asked), _) => asked,
        }
    }
}

impl Node {
    /// What a container's pod was made with.
    pub(crate) fn defaults_of(&self, pod: &str) -> Handler {
        self.pods.get(pod).map(|p| p.record().defaults).unwrap_or_default()
    }

    /// The name of what connects a pod that asks for the network of CRI.
    pub(crate) fn cri_network(&self, handler: &Handler) -> Option<&'static str> {
        match handler.network {
            HandlerNetwork::Default => Some(self.network.name()),
            HandlerNetwork::Cni => Some(self.cni.name()),
            HandlerNetwork::Builtin => Some(self.bridge.name()),
            HandlerNetwork::None => None,
        }
    }
}

//! A CDI specification's file (CNCF TAG, container-device-interface, SPEC.md), versions 0.1.0 to 1.1.0.

use crate::regular;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::Path;
use strata_wire::hooks::Point;

/// The most bytes of a file that are read.
const MAX_SIZE: u64 = 4 << 20;

/// One file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    cdi_version: String,
    /// `vendor/class`.
    pub(super) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    /// What goes with each of its devices.
    #[serde(default, deserialize_with = "nullable")]
    pub(super) container_edits: Edits,
}

/// A device.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) container_edits: Edits,
}

/// What is changed in a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Edits {
    #[serde(deserialize_with = "nullable")]
    pub(super) env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) device_nodes: Vec<Node>,
    #[serde(deserialize_with = "nullable")]
    pub(super) mounts: Vec<Mount>,
    #[serde(deserialize_with = "nullable")]
    pub(super) hooks: Vec<Hook>,
    #[serde(deserialize_with = "nullable", alias = "additionalGIDs")]
    pub(super) additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<serde_json::Value>,
    #[serde(deserialize_with = "nullable")]
    pub(super) net_devices: Vec<NetDevice>,
}

/// A device node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Node {
    /// In the container.
    pub(super) path: String,
    /// On the host; empty: the same.
    pub(super) host_path: String,
    /// `c`, `u`, `b` or `p`; empty: as on the host.
    pub(super) r#type: String,
    pub(super) major: i64,
    pub(super) minor: i64,
    pub(super) file_mode: Option<u32>,
    /// Some of `rwm`, or `none`; empty: all.
    pub(super) permissions: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    /// `bind` or `none`; empty: a bind mount too; `tmpfs`.
    pub(super) r#type: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) options: Vec<String>,
}

/// A program to be run at a point of the container's life.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Hook {
    /// The point, as the OCI runtime specification names it.
    pub(super) hook_name: String,
    pub(super) path: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) args: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) env: Vec<String>,
    /// Seconds.
    pub(super) timeout: Option<u32>,
}

/// An interface of the node's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct NetDevice {
    /// On the node.
    pub(super) host_interface_name: String,
    /// In the container; empty: the same.
    pub(super) name: String,
}

/// `null`, as an empty key of YAML is, stands for nothing.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl Spec {
    /// Reads and checks a file: JSON or YAML, as its name says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = regular::read_text(path, MAX_SIZE).map_err(|e| e.to_string())?;
        Self::parse(&text, path.extension().is_some_and(|e| e == "json"))
    }

    /// Parses and checks a text.
    pub(super) fn parse(text: &str, json: bool) -> Result<Self, String> {
        let spec: Self = if json {
            serde_json::from_str(text).map_err(|e| e.to_string())?
        } else {
            serde_saphyr::from_str(text).map_err(|e| e.to_string())?
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let version = version_of(&self.cdi_version)?;
        check_kind(&self.kind)?;
        if self.devices.is_empty() {
            return Err("it has no devices".into());
        }
        self.container_edits.check()?;
        for (n, device) in self.devices.iter().enumerate() {
            if !is_name(&device.name, "_-.:", true) {
                return Err(format!("{:?} is no name of a device", device.name));
            }
            if self.devices.iter().take(n).any(|d| d.name == device.name) {
                return Err(format!("it has device {:?} twice", device.name));
            }
            device.container_edits.check().map_err(|e| format!("device {}: {e}", device.name))?;
        }
        match self.needs() {
            (needed, what) if needed > version => Err(format!(
                "its cdiVersion is {:?}, and {what} came with {}.{}.0",
                self.cdi_version, needed.0, needed.1
            )),
            _ => Ok(()),
        }
    }

    /// The least version that has all that is used, and for what: a file that says an older one is refused (SPEC.md, "Released
    /// versions"), since readers of that version would do without.
    fn needs(&self) -> (Version, &'static str) {
        let all = || self.devices.iter().map(|d| &d.container_edits).chain([&self.container_edits]);
        let rdt = |key: &str| all().filter_map(|e| e.intel_rdt.as_ref()).any(|r| r.get(key).is_some());
        let annotated =
            !self.annotations.is_empty() || self.devices.iter().any(|d| !d.annotations.is_empty());
        let dotted = self.kind.split_once('/').is_some_and(|(_, class)| class.contains('.'));
        let digits = self.devices.iter().any(|d| d.name.starts_with(|c: char| c.is_ascii_digit()));
        [
            ((1, 1), "netDevices", all().any(|e| !e.net_devices.is_empty())),
            ((1, 1), "intelRdt's schemata", rdt("schemata") || rdt("enableMonitoring")),
            ((0, 7), "intelRdt", all().any(|e| e.intel_rdt.is_some())),
            ((0, 7), "additionalGids", all().any(|e| !e.additional_gids.is_empty())),
            ((0, 6), "annotations", annotated),
            ((0, 6), "a dot in the class", dotted),
            ((0, 5), "a device's name that begins with a digit", digits),
            ((0, 5), "hostPath", all().flat_map(|e| &e.device_nodes).any(|n| !n.host_path.is_empty())),
            ((0, 4), "a mount's type", all().flat_map(|e| &e.mounts).any(|m| !m.r#type.is_empty())),
        ]
        .into_iter()
        .find_map(|(version, what, used)| used.then_some((version, what)))
        .unwrap_or_default()
    }
}

impl Edits {
    fn check(&self) -> Result<(), String> {
        check_variables(&self.env)?;
        self.hooks.iter().try_for_each(Hook::check)?;
        self.net_devices.iter().try_for_each(NetDevice::check)?;
        for node in &self.device_nodes {
            let letters = node.permissions == "none" || node.permissions.chars().all(|c| "rwm".contains(c));
            if !node.path.starts_with('/') || !["", "b", "c", "u", "p"].contains(&node.r#type.as_str()) {
                return Err(format!(
                    "device node {:?}: it needs an absolute path, and a type b, c, u or p",
                    node.path
                ));
            }
            if !letters {
                return Err(format!("device node {}: permissions {:?}", node.path, node.permissions));
            }
            if u32::try_from(node.major).is_err() || u32::try_from(node.minor).is_err() {
                return Err(format!("device node {}: number {}:{}", node.path, node.major, node.minor));
            }
        }
        let mut mounts = self.mounts.iter();
        match mounts.find(|m| m.host_path.is_empty() || !m.container_path.starts_with('/')) {
            Some(bad) => {
                Err(format!("mount on {:?}: it needs a host path and an absolute path", bad.container_path))
            }
            None => Ok(()),
        }
    }
}

impl NetDevice {
    /// What the kernel takes for a name (dev_valid_name): up to 15 bytes without these.
    fn check(&self) -> Result<(), String> {
        let bad = |c: char| c == '/' || c == ':' || c == '%' || c == '\0' || c.is_whitespace();
        let is_name = |name: &str| name.len() < 16 && name != "." && name != ".." && !name.contains(bad);
        match !self.host_interface_name.is_empty()
            && is_name(&self.host_interface_name)
            && is_name(&self.name)
        {
            true => Ok(()),
            false => Err(format!(
                "netDevices: {:?} as {:?}: names of interfaces have 1 to 15 bytes",
                self.host_interface_name, self.name
            )),
        }
    }

    /// What it is called in the container.
    pub(super) fn inside(&self) -> &str {
        if self.name.is_empty() { &self.host_interface_name } else { &self.name }
    }
}

impl Hook {
    fn check(&self) -> Result<(), String> {
        let Some(point) = self.point() else {
            let known: Vec<_> = Point::ALL.into_iter().map(Point::name).collect();
            return Err(format!("hookName {:?} is not known: {} are", self.hook_name, known.join(", ")));
        };
        let bad = |why: String| Err(format!("{} hook {:?}: {why}", point.name(), self.path));
        if !self.path.starts_with('/') {
            return bad("its path must be absolute".into());
        }
        if self.args.iter().chain([&self.path]).any(|text| text.contains('\0')) {
            return bad("a null character in its path or arguments".into());
        }
        if self.timeout == Some(0) {
            return bad("its timeout must be more than 0 seconds".into());
        }
        check_variables(&self.env).or_else(bad)
    }

    /// When it runs.
    pub(super) fn point(&self) -> Option<Point> {
        Point::of_name(&self.hook_name)
    }
}

fn check_variables(env: &[String]) -> Result<(), String> {
    match env.iter().find(|e| e.find('=').is_none_or(|at| at == 0) || e.contains('\0')) {
        Some(bad) => Err(format!("environment variable {bad:?} is not NAME=value")),
        None => Ok(()),
    }
}

/// A version of the specification: major, minor. Its patches change no file.
type Version = (u32, u32);

/// Those that have been released.
fn version_of(text: &str) -> Result<Version, String> {
    let parts: Option<Vec<u32>> =
        text.strip_prefix('v').unwrap_or(text).split('.').map(|part| part.parse().ok()).collect();
    match parts.as_deref() {
        Some([0, minor @ 1..=8, _]) => Ok((0, *minor)),
        Some([1, minor @ 0..=1, _]) => Ok((1, *minor)),
        _ => Err(format!("CDI version {text:?} is not known: 0.1.0 to 0.8.0, 1.0.0 and 1.1.0 are")),
    }
}

/// `vendor/class`.
pub(super) fn check_kind(kind: &str) -> Result<(), String> {
    match kind.split_once('/') {
        Some((vendor, class)) if is_name(vendor, "_-.", false) && is_name(class, "_-.", false) => Ok(()),
        _ => Err(format!("kind {kind:?} is not vendor/class")),
    }
}

/// Letters, digits and these signs; first a letter, or a digit where that is allowed; last a letter or a digit.
pub(super) fn is_name(text: &str, signs: &str, digit_first: bool) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || (digit_first && c.is_ascii_digit());
    text.starts_with(first)
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c))
}

#[cfg(test)]
mod tests;

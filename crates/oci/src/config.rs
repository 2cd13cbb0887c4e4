//! Image configs (OCI image spec, config.md), with what Docker adds to them.

use crate::digest::{Digest, Hasher};
use crate::json;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The most bytes of a config that are read.
pub const MAX_SIZE: usize = 4 << 20;

/// Why a config cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON of the right shape.
    #[error("image config cannot be parsed: {0}")]
    Parse(String),
    /// More values than [`json::MAX_VALUES`].
    #[error("image config has more than {max} JSON values, which is not read", max = json::MAX_VALUES)]
    TooManyValues,
    /// `rootfs.type` is not `layers`.
    #[error("image config: rootfs type {0:?} is not supported; expected \"layers\"")]
    RootfsType(String),
    /// The config does not name as many layers as the manifest.
    #[error("image config names {diff_ids} layers, its manifest {layers}")]
    Layers {
        /// In the config.
        diff_ids: usize,
        /// In the manifest.
        layers: usize,
    },
    /// For another operating system.
    #[error("image is for {0:?}; only linux images run here")]
    Os(String),
}

/// What an image says about itself. Fields that are not listed are kept as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Go's name of the architecture.
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// The architecture's variant.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Go's name of the operating system.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// How its containers run.
    #[serde(default, deserialize_with = "nullable")]
    pub config: Execution,
    /// Its layers.
    #[serde(default, deserialize_with = "nullable")]
    pub rootfs: RootFs,
    /// How it came to be, oldest first.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How containers of an image run by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Execution {
    /// User and group, by name or number: `user[:group]`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `port/protocol` keys.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What precedes the command.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The command, or its default arguments.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Paths that hold data of their own.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// Where the command starts.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Instructions for builds on top of it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// How its health is checked (Docker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Value>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// `{}`, as a set's element in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// An image's layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The layers' uncompressed digests, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// One step of an image's making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what command.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Why.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether it made no layer.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

fn is_false(b: &bool) -> bool {
    !b
}

/// Go writes `null` for what is empty.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

impl ImageConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// If it is none, or not for Linux.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if json::has_too_many_values(bytes) {
            return Err(ConfigError::TooManyValues);
        }
        let config: Self = serde_json::from_slice(bytes).map_err(|e| ConfigError::Parse(e.to_string()))?;
        if config.rootfs.kind != "layers" {
            return Err(ConfigError::RootfsType(config.rootfs.kind.chars().take(100).collect()));
        }
        if !config.os.is_empty() && config.os != "linux" {
            return Err(ConfigError::Os(config.os.chars().take(100).collect()));
        }
        Ok(config)
    }

    /// Its bytes.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, numbers and maps keyed by strings only: there is nothing in it that JSON cannot say.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Checks that it names as many layers as the manifest.
    ///
    /// # Errors
    /// If it does not.
    pub fn check_layers(&self, layers: usize) -> Result<(), ConfigError> {
        let diff_ids = self.rootfs.diff_ids.len();
        if diff_ids == layers { Ok(()) } else { Err(ConfigError::Layers { diff_ids, layers }) }
    }

    /// The value of a variable in its environment.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.config.env.iter().find_map(|e| e.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v))
    }
}

/// Chain IDs of a stack of layers, lowest first (config.md, "Layer ChainID"): each names a layer and all below it.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => {
                let mut hasher = Hasher::sha256();
                hasher.update(format!("{below} {diff_id}").as_bytes());
                hasher.finish()
            }
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_kept_and_null_is_empty() {
        let text = r#"{"created":"2024-01-01T00:00:00Z","architecture":"amd64","os":"linux","moby.buildkit":{"a":1},"n":1999999999999999999999999999999999999999999999999999999999999999999,
            "config":{"Env":["PATH=/bin"],"Cmd":null,"ArgsEscaped":true,"Healthcheck":{"Test":["CMD","x"]}},
            "rootfs":{"type":"layers","diff_ids":null},"history":[{"created_by":"ADD x","empty_layer":true}]}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.env("PATH"), Some("/bin"));
        let again: Value = serde_json::from_slice(&config.to_json()).unwrap();
        assert_eq!(again["moby.buildkit"]["a"], 1);
        assert_eq!(again["config"]["ArgsEscaped"], true);
        assert_eq!(ImageConfig::parse(&config.to_json()).unwrap(), config);
        assert!(config.check_layers(1).is_err());
    }

    #[test]
    fn what_is_refused() {
        assert!(matches!(ImageConfig::parse(b"[]x"), Err(ConfigError::Parse(_))));
        let windows = br#"{"os":"windows","rootfs":{"type":"layers"}}"#;
        assert!(matches!(ImageConfig::parse(windows), Err(ConfigError::Os(_))));
        let kind = br#"{"os":"linux","rootfs":{"type":"x"}}"#;
        assert!(matches!(ImageConfig::parse(kind), Err(ConfigError::RootfsType(_))));
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}1{}", open.repeat(40_000), close.repeat(40_000));
            for key in ["x", "config", "history"] {
                let text = format!("{{\"rootfs\":{{\"type\":\"layers\"}},\"{key}\":{deep}}}");
                let error = ImageConfig::parse(text.as_bytes()).unwrap_err().to_string();
                assert!(key != "x" || error.contains("recursion limit"), "{key}: {error}");
            }
        }
    }

    #[test]
    fn chains_are_as_the_specification_says() {
        let (a, b) = (Digest::sha256_of(b"a"), Digest::sha256_of(b"b"));
        let chain = chain_ids(&[a.clone(), b.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::sha256_of(format!("{a} {b}").as_bytes()));
    }
}

//! Network lists: which one counts, and what it says (CNI specification 1.1, section 1).

use crate::error::{Error, Result};
use crate::regular;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The newest version of the specification that this understands.
const NEWEST: Version = Version(1, 1, 0);
/// How large a file may be, in bytes.
pub(super) const MAX_SIZE: u64 = 2 << 20;

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u16, pub(super) u16, pub(super) u16);

impl Version {
    /// Reads `1.0.0`; what is missing at the end is 0.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.').map(str::parse::<u16>);
        let version = Self(
            parts.next()?.ok()?,
            parts.next().unwrap_or(Ok(0)).ok()?,
            parts.next().unwrap_or(Ok(0)).ok()?,
        );
        parts.next().is_none().then_some(version)
    }
}

/// A network: plugins that are run one after the other. Kept in pod records: fields may be added, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct List {
    /// Its name.
    pub(super) name: String,
    /// The version that it is run with.
    #[serde(rename = "cniVersion")]
    pub(super) version: String,
    /// Whether CHECK must not be used.
    #[serde(rename = "disableCheck", default)]
    pub(super) disable_check: bool,
    /// Whether GC must not be used.
    #[serde(rename = "disableGC", default)]
    pub(super) disable_gc: bool,
    /// Its plugins.
    pub(super) plugins: Vec<Map<String, Value>>,
}

impl List {
    /// Whether it is of this version of the specification, or a newer one.
    pub(super) fn at_least(&self, version: Version) -> bool {
        Version::parse(&self.version).is_some_and(|own| own >= version)
    }

    /// Whether a plugin asks for this kind of argument.
    pub(super) fn has_capability(&self, name: &str) -> bool {
        self.plugins.iter().any(|p| has_capability(p, name))
    }
}

/// Whether a plugin asks for this kind of argument.
pub(super) fn has_capability(plugin: &Map<String, Value>, name: &str) -> bool {
    plugin.get("capabilities").and_then(|c| c.get(name)).and_then(Value::as_bool).unwrap_or(false)
}

/// A plugin's program.
pub(super) fn type_of(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Files that may hold a network, in the order in which they count.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    sorted(dir, &["conf", "conflist", "json"])
}

fn sorted(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::precondition(format!("{} cannot be read: {e}", dir.display()))),
    };
    let is_one = |p: &PathBuf| {
        p.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e)) && p.is_file()
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(is_one).collect();
    files.sort();
    Ok(files)
}

/// The network of a directory: that of the first file by name, as with other runtimes. One that cannot be read is not passed
/// over: the next one would be another network.
///
/// # Errors
/// [`FailedPrecondition`](crate::error::Kind::FailedPrecondition) if there is none, or what is wrong with it.
pub(super) fn load(dir: &Path) -> Result<List> {
    let Some(file) = files(dir)?.into_iter().next() else {
        return Err(Error::precondition(format!(
            "there is no network list in {}; install a network add-on, or set cri = \"builtin\" under [network]",
            dir.display()
        )));
    };
    read(&file).map_err(|e| e.context(file.display()))
}

fn read(file: &Path) -> Result<List> {
    let Value::Object(mut document) = json(file)? else {
        return Err(Error::precondition("it is no JSON object"));
    };
    let name = document.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    check_name(&name)?;
    let version = version(&document)?;
    let (disable_check, disable_gc) = (flag(&document, "disableCheck")?, flag(&document, "disableGC")?);
    let inlined_only = flag(&document, "loadOnlyInlinedPlugins")?;
    let mut plugins = match document.remove("plugins") {
        Some(Value::Array(plugins)) => plugins,
        Some(_) => return Err(Error::precondition("plugins must be an array")),
        // A single plugin's, as before version 1.0.0.
        None if document.contains_key("type") => vec![Value::Object(document)],
        None if inlined_only => {
            return Err(Error::precondition("loadOnlyInlinedPlugins is set, and there are no plugins in it"));
        }
        None => Vec::new(),
    };
    if !inlined_only && let Some(dir) = file.parent() {
        for more in sorted(&dir.join(&name), &["conf"])? {
            plugins.push(json(&more).map_err(|e| e.context(more.display()))?);
        }
    }
    let plugins = plugins.into_iter().map(plugin).collect::<Result<Vec<_>>>()?;
    if plugins.is_empty() {
        return Err(Error::precondition("it has no plugins"));
    }
    Ok(List { name, version, disable_check, disable_gc, plugins })
}

fn json(file: &Path) -> Result<Value> {
    let bytes = regular::read(file, MAX_SIZE).map_err(|e| Error::precondition(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::precondition(format!("it is no JSON: {e}")))
}

fn plugin(value: Value) -> Result<Map<String, Value>> {
    let Value::Object(plugin) = value else {
        return Err(Error::precondition("a plugin must be a JSON object"));
    };
    match type_of(&plugin) {
        "" => Err(Error::precondition("a plugin has no type")),
        name if name.contains('/') || name.starts_with('.') => {
            Err(Error::precondition(format!("plugin type {name:?} is no name of a program")))
        }
        _ => Ok(plugin),
    }
}

/// A name as plugins use it in paths.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "network name {name:?}: must begin with a letter or a digit and have only these and \"_.-\""
    )))
}

/// The newest one of those that it offers that this understands.
fn version(document: &Map<String, Value>) -> Result<String> {
    let one = document.get("cniVersion");
    let several = match document.get("cniVersions") {
        None => [].as_slice(),
        Some(Value::Array(several)) => several.as_slice(),
        Some(_) => return Err(Error::precondition("cniVersions must be an array")),
    };
    let mut best: Option<(Version, &str)> = None;
    for offered in one.into_iter().chain(several) {
        let text = offered.as_str().filter(|t| Version::parse(t).is_some());
        let (Some(text), Some(version)) = (text, text.and_then(Version::parse)) else {
            return Err(Error::precondition(format!("CNI version {offered} is none such as \"1.0.0\"")));
        };
        if version <= NEWEST && best.is_none_or(|(b, _)| version > b) {
            best = Some((version, text));
        }
    }
    match best {
        Some((_, text)) => Ok(text.to_owned()),
        // The specification's word for what does not say.
        None if one.is_none() && several.is_empty() => Ok("0.1.0".into()),
        None => Err(Error::precondition(
            "it is written for a newer CNI than 1.1.0; add an older one to cniVersions if its plugins have it",
        )),
    }
}

/// A truth value, also as text (specification 1.1).
fn flag(document: &Map<String, Value>, key: &str) -> Result<bool> {
    match document.get(key) {
        None => Ok(false),
        Some(Value::Bool(set)) => Ok(*set),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(Error::precondition(format!("{key} = {other}: must be true or false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(files: &[(&str, &str)]) -> Result<List> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        load(dir.path())
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let list = r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;
        let single = r#"{"cniVersion":"0.4.0","name":"b","type":"ptp"}"#;
        let found = with(&[("10-a.conflist", list), ("20-b.conf", single), ("00-readme.txt", "x")]).unwrap();
        assert_eq!((found.name.as_str(), found.plugins.len()), ("a", 2));
        assert!(found.has_capability("portMappings") && !found.has_capability("bandwidth"));
        let found = with(&[("10-a.conflist", list), ("05-b.json", single)]).unwrap();
        assert_eq!((found.name.as_str(), type_of(&found.plugins[0])), ("b", "ptp"));
        assert!(found.at_least(Version(0, 4, 0)) && !found.at_least(Version(1, 0, 0)));
        // Half written: no other network in its place.
        let error = with(&[("10-a.conflist", "{"), ("20-b.conf", single)]).unwrap_err();
        assert!(error.to_string().contains("10-a.conflist"), "{error}");
        assert!(with(&[]).unwrap_err().to_string().contains("no network list"));
    }

    #[test]
    fn the_newest_common_version_is_taken() {
        let of = |versions: &str| {
            with(&[("a.conflist", &format!(r#"{{"name":"a",{versions}"plugins":[{{"type":"x"}}]}}"#))])
        };
        assert_eq!(of("").unwrap().version, "0.1.0");
        assert_eq!(of(r#""cniVersion":"0.3.1","#).unwrap().version, "0.3.1");
        let several = r#""cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0","2.0.0"],"#;
        assert_eq!(of(several).unwrap().version, "1.1.0");
        assert!(of(r#""cniVersion":"1.2.0","#).unwrap_err().to_string().contains("newer"));
        for bad in [r#""cniVersion":"x","#, r#""cniVersion":1,"#, r#""cniVersions":"1.0.0","#] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plugins_beside_the_list() {
        let list = r#"{"cniVersion":"1.1.0","name":"net","disableCheck":"true","plugins":[{"type":"a"}]}"#;
        let more = ("net/10-b.conf", r#"{"type":"b"}"#);
        let found = with(&[("net.conflist", list), more]).unwrap();
        assert_eq!(found.plugins.iter().map(type_of).collect::<Vec<_>>(), ["a", "b"]);
        assert!(found.disable_check && !found.disable_gc);
        let only = list.replace("\"disableCheck\"", "\"loadOnlyInlinedPlugins\"");
        assert_eq!(with(&[("net.conflist", &only), more]).unwrap().plugins.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "[]",
            r#"{"plugins":[{"type":"a"}]}"#,
            r#"{"name":"../x","plugins":[{"type":"a"}]}"#,
            r#"{"name":"x","plugins":[]}"#,
            r#"{"name":"x","plugins":[{"type":"../../bin/sh"}]}"#,
            r#"{"name":"x","plugins":[{}]}"#,
            r#"{"name":"x","plugins":{}}"#,
            r#"{"name":"x","disableGC":"perhaps","plugins":[{"type":"a"}]}"#,
            r#"{"name":"x","loadOnlyInlinedPlugins":true}"#,
        ] {
            assert!(with(&[("a.conflist", bad)]).is_err(), "{bad}");
        }
    }
}

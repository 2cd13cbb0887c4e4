//! Devices by name: the files of the configured directories, read when a container asks for one.

use super::spec::{Edits, Spec, check_kind, is_name};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use strata_api::cri;

/// Annotations whose key begins so name devices too, separated by commas (SPEC.md; what device plugins of older kubelets
/// send).
const ANNOTATION: &str = "cdi.k8s.io/";

/// The names that a container asks for, each once: those of CRI's field first.
///
/// # Errors
/// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for one that is not `vendor/class=name`.
pub(super) fn names(config: &cri::ContainerConfig) -> Result<Vec<String>> {
    let own = config.cdi_devices.iter().map(|d| d.name.as_str());
    let mut annotations: Vec<_> =
        config.annotations.iter().filter(|(k, _)| k.starts_with(ANNOTATION)).collect();
    annotations.sort();
    let more = annotations.iter().flat_map(|(_, list)| list.split(',').map(str::trim));
    let mut all: Vec<String> = Vec::new();
    for name in own.chain(more) {
        let whole = name
            .split_once('=')
            .filter(|(kind, device)| check_kind(kind).is_ok() && is_name(device, "_-.:", true));
        if whole.is_none() {
            return Err(Error::invalid(format!(
                "CDI device {name:?}: must be vendor/class=name, such as vendor.example/gpu=0"
            )));
        }
        if !all.iter().any(|known| known == name) {
            all.push(name.to_owned());
        }
    }
    Ok(all)
}

/// The files of some directories; a later directory's devices come before an earlier one's of the same name.
#[derive(Debug, Default)]
pub(super) struct Files {
    specs: Vec<(PathBuf, usize, Spec)>,
    /// What is wrong with the others.
    unreadable: Vec<String>,
}

impl Files {
    /// Reads them. A directory that does not exist has none.
    pub(super) fn read(directories: &[PathBuf]) -> Self {
        let mut files = Self::default();
        for (priority, directory) in directories.iter().enumerate() {
            let entries = match std::fs::read_dir(directory) {
                Ok(entries) => entries,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => {
                    files.unreadable.push(format!("{}: {e}", directory.display()));
                    continue;
                }
            };
            let mut paths: Vec<PathBuf> =
                entries.flatten().map(|e| e.path()).filter(|p| is_spec(p)).collect();
            paths.sort();
            for path in paths {
                match Spec::read(&path) {
                    Ok(spec) => files.specs.push((path, priority, spec)),
                    Err(e) => files.unreadable.push(format!("{}: {e}", path.display())),
                }
            }
        }
        files
    }

    /// What is wrong with files that were passed over.
    pub(super) fn unreadable(&self) -> &[String] {
        &self.unreadable
    }

    /// The edits that devices need, in order: those of a file once, before those of its first device.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::error::Kind::InvalidArgument) for a device that no file has, or two files of one directory.
    pub(super) fn edits(&self, names: &[String]) -> Result<Vec<&Edits>> {
        let mut edits = Vec::new();
        let mut used: HashSet<&Path> = HashSet::new();
        for name in names {
            let (path, spec, own) = self.find(name)?;
            if used.insert(path) {
                edits.push(&spec.container_edits);
            }
            edits.push(own);
        }
        Ok(edits)
    }

    fn find(&self, name: &str) -> Result<(&Path, &Spec, &Edits)> {
        let (kind, device) = name.split_once('=').unwrap_or_default();
        let mut found: Vec<(usize, &Path, &Spec, &Edits)> = self
            .specs
            .iter()
            .filter(|(_, _, spec)| spec.kind == kind)
            .flat_map(|(path, priority, spec)| {
                let devices = spec.devices.iter().filter(|d| d.name == device);
                devices.map(move |d| (*priority, path.as_path(), spec, &d.container_edits))
            })
            .collect();
        found.sort_by_key(|(priority, ..)| std::cmp::Reverse(*priority));
        match found.as_slice() {
            [(one, a, ..), (two, b, ..), ..] if one == two => Err(Error::invalid(format!(
                "CDI device {name} is in both {} and {}; remove it from one of them",
                a.display(),
                b.display()
            ))),
            [(_, path, spec, edits), ..] => Ok((path, spec, edits)),
            [] => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let mut text = format!("CDI device {name} is not known on this node");
        if !self.unreadable.is_empty() {
            text.push_str(&format!("; these files cannot be used: {}", self.unreadable.join("; ")));
        }
        text.push_str("; install its specification in one of runtime.cdi_spec_dirs");
        Error::invalid(text)
    }
}

fn is_spec(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "json" || e == "yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: &str, device: &str, value: &str) -> String {
        format!(
            r#"{{"cdiVersion":"0.5.0","kind":"{kind}","devices":[{{"name":"{device}","containerEdits":{{"env":["D={value}"]}}}}],
                "containerEdits":{{"env":["ALL={value}"]}}}}"#
        )
    }

    fn envs(files: &Files, names: &[&str]) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        Ok(files.edits(&names)?.iter().flat_map(|e| e.env.clone()).collect())
    }

    #[test]
    fn later_directories_win_and_doubles_are_refused() {
        let (low, high) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let put = |dir: &tempfile::TempDir, name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        put(&low, "a.json", &spec("v.example/x", "one", "low"));
        put(&low, "b.json", &spec("v.example/x", "two", "low"));
        put(&high, "a.json", &spec("v.example/x", "one", "high"));
        put(&high, "notes.txt", "no specification");
        let dirs = [low.path().to_owned(), "/nonexistent/cdi".into(), high.path().to_owned()];
        let files = Files::read(&dirs);
        assert_eq!(envs(&files, &["v.example/x=one"]).unwrap(), ["ALL=high", "D=high"]);
        let both = envs(&files, &["v.example/x=two", "v.example/x=one"]).unwrap();
        assert_eq!(both, ["ALL=low", "D=low", "ALL=high", "D=high"]);
        put(&low, "c.json", &spec("v.example/x", "two", "other"));
        put(&low, "d.yaml", "no: [specification");
        let files = Files::read(&dirs);
        let error = envs(&files, &["v.example/x=two"]).unwrap_err().to_string();
        assert!(error.contains("b.json") && error.contains("c.json"), "{error}");
        let error = envs(&files, &["v.example/x=three"]).unwrap_err().to_string();
        assert!(error.contains("v.example/x=three") && error.contains("d.yaml"), "{error}");
    }

    #[test]
    fn what_is_no_small_regular_file_is_named_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("good.json"), spec("v.example/x", "one", "1")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe.json"), rustix::fs::Mode::RUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket.yaml")).unwrap();
        std::fs::create_dir(at("directory.json")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("endless.json")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling.yaml")).unwrap();
        std::fs::File::create(at("huge.json")).unwrap().set_len(5 << 20).unwrap();
        let files = Files::read(&[dir.path().to_owned()]);
        assert_eq!(envs(&files, &["v.example/x=one"]).unwrap(), ["ALL=1", "D=1"]);
        let error = envs(&files, &["v.example/x=two"]).unwrap_err().to_string();
        for name in
            ["pipe.json", "socket.yaml", "directory.json", "endless.json", "dangling.yaml", "huge.json"]
        {
            assert!(error.contains(name), "{name}: {error}");
        }
    }

    #[test]
    fn names_come_from_the_field_and_from_annotations() {
        let device = |name: &str| cri::CdiDevice { name: name.into() };
        let mut config = cri::ContainerConfig {
            cdi_devices: vec![device("v.example/x=1"), device("v.example/x=2")],
            ..Default::default()
        };
        config.annotations.insert("cdi.k8s.io/plugin".into(), "v.example/x=2, v.example/y=a:b".into());
        config.annotations.insert("other".into(), "not a device".into());
        assert_eq!(names(&config).unwrap(), ["v.example/x=1", "v.example/x=2", "v.example/y=a:b"]);
        for bad in ["gpu0", "v.example/x", "v.example=1", "v.example/x=", "/x=1", "v.example/x=-"] {
            let config = cri::ContainerConfig { cdi_devices: vec![device(bad)], ..Default::default() };
            assert!(names(&config).is_err(), "{bad}");
        }
    }
}

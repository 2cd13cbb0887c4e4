//! `-v`, `--mount` and `--tmpfs`.

use std::path::Path;
use strata_api::debug::BindMount;

/// What a mount option asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mount {
    /// A directory or file of the host.
    Bind(BindMount),
    /// An empty file system in memory: `/path[:options]`.
    Tmpfs(String),
}

const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

/// Reads `-v /host/path:/path[:options]`.
pub(crate) fn volume(text: &str) -> Result<BindMount, String> {
    let bad = |why: &str| format!("invalid volume specification '{text}': {why}");
    let mut parts = text.split(':');
    let source = parts.next().unwrap_or_default();
    let target = parts.next().ok_or_else(|| {
        bad("Strata has no volumes of its own: give a path of the host too, /host/path:/path")
    })?;
    let options = parts.next().unwrap_or_default();
    if parts.next().is_some() {
        return Err(bad("too many colons"));
    }
    let mut mount = BindMount { source: host_path(source).map_err(|e| bad(&e))?, ..BindMount::default() };
    mount.target = inside(target).map_err(|e| bad(&e))?;
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => mount.readonly = true,
            "z" | "Z" if ["", option].contains(&mount.relabel.as_str()) => {
                option.clone_into(&mut mount.relabel);
            }
            // Recursive binds are what every bind is here.
            "rw" | "rbind" | "consistent" | "cached" | "delegated" => {}
            p if PROPAGATIONS.contains(&p) => p.clone_into(&mut mount.propagation),
            other => return Err(bad(&format!("invalid mode: {other}"))),
        }
    }
    Ok(mount)
}

/// Reads `--mount type=…,key=value`.
pub(crate) fn mount(text: &str) -> Result<Mount, String> {
    let bad = |why: &str| format!("invalid argument '{text}' for --mount: {why}");
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut readonly, mut propagation, mut tmpfs) = (false, String::new(), Vec::new());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').map_or((field, None), |(k, v)| (k, Some(v)));
        let needed = || value.filter(|v| !v.is_empty()).ok_or_else(|| bad(&format!("{key} needs a value")));
        match key {
            "type" => kind = needed()?,
            "source" | "src" => source = Some(needed()?),
            "target" | "destination" | "dst" => target = Some(needed()?),
            "readonly" | "ro" => {
                readonly = match value {
                    None | Some("true" | "1") => true,
                    Some("false" | "0") => false,
                    Some(v) => return Err(bad(&format!("invalid value for {key}: {v}"))),
                }
            }
            "bind-propagation" if PROPAGATIONS.contains(&needed()?) => needed()?.clone_into(&mut propagation),
            "tmpfs-size" => tmpfs.push(format!("size={}", crate::units::parse_binary(needed()?)?)),
            "tmpfs-mode" => tmpfs.push(format!("mode={}", needed()?)),
            _ => return Err(bad(&format!("unexpected '{field}'"))),
        }
    }
    let target = inside(target.ok_or_else(|| bad("target is required"))?).map_err(|e| bad(&e))?;
    match (kind, source) {
        ("bind", Some(source)) => {
            let source = host_path(source).map_err(|e| bad(&e))?;
            // Unlike -v, --mount never makes what is not there.
            if !Path::new(&source).exists() {
                return Err(bad(&format!("bind source path does not exist: {source}")));
            }
            Ok(Mount::Bind(BindMount { source, target, readonly, propagation, relabel: String::new() }))
        }
        ("bind", None) => Err(bad("source is required")),
        ("tmpfs", None) => {
            if readonly {
                tmpfs.push("ro".into());
            }
            let options = tmpfs.join(",");
            Ok(Mount::Tmpfs(if options.is_empty() { target } else { format!("{target}:{options}") }))
        }
        ("tmpfs", Some(_)) => Err(bad("a tmpfs has no source")),
        (other, _) => Err(bad(&format!("type is {other}, and Strata has bind and tmpfs"))),
    }
}

/// Reads `--tmpfs /path[:options]`.
pub(crate) fn tmpfs(text: &str) -> Result<String, String> {
    let path = text.split_once(':').map_or(text, |(path, _)| path);
    inside(path).map_err(|e| format!("invalid tmpfs '{text}': {e}"))?;
    Ok(text.to_owned())
}

fn inside(path: &str) -> Result<String, String> {
    match path {
        "/" => Err("destination can't be '/'".into()),
        p if p.starts_with('/') => Ok(p.to_owned()),
        p => Err(format!("mount path must be absolute: '{p}'")),
    }
}

/// A path of the host: absolute, or beginning with a dot and relative to where this command runs.
fn host_path(path: &str) -> Result<String, String> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    if !path.starts_with('.') {
        return Err(format!(
            "'{path}' is no path, and Strata has no volumes of its own: begin it with / or ./"
        ));
    }
    let mut full = std::env::current_dir().map_err(|e| format!("current directory: {e}"))?;

    for part in Path::new(path).components() {
        match part {
            std::path::Component::ParentDir => {
                full.pop();
            }
            std::path::Component::CurDir => {}
            other => full.push(other),
        }
    }
    full.into_os_string().into_string().map_err(|p| format!("{} is not UTF-8", p.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, target: &str, readonly: bool, propagation: &str) -> BindMount {
        BindMount {
            source: source.into(),
            target: target.into(),
            readonly,
            propagation: propagation.into(),
            relabel: String::new(),
        }
    }

    #[test]
    fn volumes_are_binds() {
        assert_eq!(volume("/a:/b"), Ok(bind("/a", "/b", false, "")));
        assert_eq!(volume("/a:/b:ro,rslave"), Ok(bind("/a", "/b", true, "rslave")));
        assert_eq!(volume("/a:/b:ro,Z").unwrap().relabel, "Z");
        assert_eq!(volume("/a:/b:z").unwrap().relabel, "z");
        let here = std::env::current_dir().unwrap();
        assert_eq!(volume("./x:/b").unwrap().source, here.join("x").to_str().unwrap());
        assert_eq!(volume("../x:/b").unwrap().source, here.parent().unwrap().join("x").to_str().unwrap());
        for bad in ["/a", "name:/b", "/a:b", "/a:/", "/a:/b:nope", "/a:/b:ro:x", ":/b", "/a:/b:z,Z"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_are_binds_or_tmpfs() {
        assert_eq!(
            mount("type=bind,source=/proc,target=/b,readonly"),
            Ok(Mount::Bind(bind("/proc", "/b", true, "")))
        );
        assert_eq!(
            mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777"),
            Ok(Mount::Tmpfs("/t:size=1048576,mode=1777".into()))
        );
        for bad in [
            "type=bind,target=/b",
            "type=bind,source=/no/such/path,target=/b",
            "type=volume,source=v,target=/b",
            "type=tmpfs,target=b",
            "type=bind,source=/proc,target=/b,bind-propagation=up",
            "nope",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }
}

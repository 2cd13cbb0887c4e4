//! Debian's packages, without installing them.

use super::catalog::{SUITE, mirror};
use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's keys, which debootstrap uses too.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with state of its own in a directory: as on a machine with [`SUITE`] and nothing installed.
pub(super) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Fetches the lists of packages.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        for below in ["state/lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(below))?;
        }
        let mirror = mirror().unwrap_or_else(|| "http://deb.debian.org/debian".into());
        let line = |kind: &str| format!("{kind} [signed-by={KEYRING}] {mirror} {SUITE} main\n");
        std::fs::write(dir.join("sources.list"), line("deb") + &line("deb-src"))?;
        std::fs::write(dir.join("status"), "")?;
        let apt = Self { dir: dir.into() };
        said(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.dir).args([
            "-q",
            "-o",
            "APT::Sandbox::User=root",
            "-o",
            "Acquire::Retries=3",
        ]);
        for (option, below) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::Etc::SourceParts", "none"),
            ("Dir::State", "state"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.dir.join(below).display()));
        }
        command
    }

    /// Unpacks a source package, with Debian's patches; returns its directory.
    pub(super) fn source(&self, package: &str) -> Result<PathBuf> {
        said(self.command("apt-get").args(["source", package]))?;
        let prefix = format!("{package}-");
        let found = std::fs::read_dir(&self.dir)?.filter_map(|entry| Some(entry.ok()?.path())).find(|path| {
            path.is_dir() && path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        });
        Ok(found.ok_or_else(|| format!("apt-get source {package} left no directory {prefix}*"))?)
    }

    /// Unpacks a package and all that it depends on into a directory; returns that directory.
    pub(super) fn unpack(&self, package: &str) -> Result<PathBuf> {
        let root = self.dir.join("root");
        std::fs::create_dir_all(&root)?;
        let kinds = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"];
        let all = said(
            self.command("apt-cache")
                .args(["depends", "--recurse"])
                .args(kinds.map(|kind| format!("--no-{kind}")))
                .arg(package),
        )?;
        // Virtual packages are named in angle brackets, dependencies are indented.
        let mut names: Vec<&str> =
            all.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric())).collect();
        names.sort_unstable();
        names.dedup();
        let debs = self.dir.join("debs");
        std::fs::create_dir_all(&debs)?;
        said(self.command("apt-get").current_dir(&debs).arg("download").args(&names))?;
        for deb in std::fs::read_dir(&debs)? {
            said(Command::new("dpkg-deb").arg("-x").arg(deb?.path()).arg(&root))?;
        }
        Ok(root)
    }
}

/// Runs a program; what it wrote to standard output, or an error with the end of what it said.
pub(super) fn said(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done =
        command.output().map_err(|e| format!("{program}: {e}; hack/deps installs what the tests need"))?;
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(out);
    }
    let all = out + &String::from_utf8_lossy(&done.stderr);
    let mut end: Vec<&str> = all.lines().rev().take(8).collect();
    end.reverse();
    Err(format!("{program} failed ({}): {}", done.status, end.join(" | ")).into())
}

//! From options to the request.

use super::{Options, env, mounts, ports, ulimits};
use crate::error::{Error, Result};
use strata_api::debug::CreateContainerRequest;

impl Options {
    /// The request; `attached`: a session will bring the container's input, and its end is the input's.
    pub(crate) fn request(&self, attached: bool) -> Result<CreateContainerRequest> {
        let (mut binds, mut tmpfs) = (Vec::new(), Vec::new());
        for text in &self.volume {
            binds.push(mounts::volume(text).map_err(Error::Local)?);
        }
        for text in &self.mount {
            match mounts::mount(text).map_err(Error::Local)? {
                mounts::Mount::Bind(bind) => binds.push(bind),
                mounts::Mount::Tmpfs(text) => tmpfs.push(text),
            }
        }
        for text in &self.tmpfs {
            tmpfs.push(mounts::tmpfs(text).map_err(Error::Local)?);
        }
        let mut mapped = Vec::new();
        for text in &self.publish {
            mapped.extend(ports::parse(text).map_err(Error::Local)?);
        }
        let ulimits: Result<Vec<_>, _> = self.ulimit.iter().map(|u| ulimits::check(u)).collect();
        let (rows, cols) = if self.tty { crate::terminal::size().unwrap_or_default() } else { (0, 0) };
        Ok(CreateContainerRequest {
            image: self.image().to_owned(),
            name: self.name.clone().unwrap_or_default(),
            command: self.command().to_vec(),
            entrypoint: self.entrypoint.clone(),
            env: env::collect(&self.env_file, &self.env)?,
            user: self.user.clone(),
            workdir: self.workdir.clone(),
            hostname: self.hostname.clone(),
            tty: self.tty,
            stdin: self.interactive,
            stdin_once: self.interactive && attached,
            mounts: binds,
            ports: mapped,
            network: self.network.clone(),
            labels: env::labels(&self.label),
            privileged: self.privileged,
            readonly: self.read_only,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            memory: self.memory.unwrap_or(0),
            nano_cpus: self.cpus.unwrap_or(0),
            pids_limit: self.pids_limit,
            auto_remove: self.rm,
            security_opt: self.security_opt.iter().map(|o| security_option(o)).collect::<Result<_>>()?,
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            tmpfs,
            pid: self.pid.clone(),
            ipc: self.ipc.clone(),
            ulimits: ulimits.map_err(Error::Local)?,
            tty_rows: rows.into(),
            tty_cols: cols.into(),
            dns: self.dns.iter().map(ToString::to_string).collect(),
            group_add: self.group_add.clone(),
            cpu_shares: self.cpu_shares,
            cpuset_cpus: self.cpuset_cpus.clone(),
            init: self.init,
        })
    }
}

/// A seccomp profile is a file of whoever runs this command: its text is what stratad gets.
fn security_option(option: &str) -> Result<String> {
    let path = option.strip_prefix("seccomp=").or_else(|| option.strip_prefix("seccomp:"));
    match path {
        None | Some("unconfined" | "builtin" | "default") => Ok(option.to_owned()),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| Error::io(format!("opening seccomp profile ({path}) failed"), e))?;
            let profile: serde_json::Value = serde_json::from_str(&text)
                .map_err(|e| Error::local(format!("the seccomp profile {path} is not JSON: {e}")))?;
            Ok(format!("seccomp={profile}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::security_option;

    #[test]
    fn a_seccomp_profile_is_sent_as_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.json");
        std::fs::write(&file, "{\n \"defaultAction\": \"SCMP_ACT_ALLOW\" }").unwrap();
        let got = security_option(&format!("seccomp={}", file.display())).unwrap();
        assert_eq!(got, "seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}");
        assert_eq!(security_option("no-new-privileges").unwrap(), "no-new-privileges");
        assert_eq!(security_option("seccomp=unconfined").unwrap(), "seccomp=unconfined");
        assert!(security_option("seccomp=/no/such/file").is_err());
    }
}

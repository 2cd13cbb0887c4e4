//! `strata save`

use super::Context;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::output::Output;
use crate::signals;
use clap::ValueEnum;
use nix::sys::signal::Signal;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use strata_api::debug::SaveImagesRequest;
use strata_api::debug::save_images_request;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the archive is: docker has an OCI layout in it too
    #[arg(long, value_enum, default_value_t = Format::Docker)]
    format: Format,
    /// Names or IDs; a name without a tag means all its tags
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Sorts of archives.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    #[value(alias = "docker-archive")]
    Docker,
    #[value(alias = "oci-archive")]
    Oci,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    if args.output.is_none() && Output::Stdout.is_terminal() {
        return Err(Error::local("cowardly refusing to save to a terminal. Use the -o flag or redirect"));
    }
    let mut client = context.client().await?;
    match &args.output {
        None => receive(&mut client, args, &mut |bytes| Output::Stdout.bytes(bytes)).await?,
        Some(path) => {
            let mut ending = signals::listen(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM])?;
            let mut file = Target::create(path)?;
            let mut take = |bytes: &[u8]| file.write(bytes);
            // Dropping the target on the way removes what is there of it.
            tokio::select! {
                saved = receive(&mut client, args, &mut take) => saved?,
                Some(signal) = ending.recv() => return Ok(128 + signal as i32),
            }
            file.finish()?;
        }
    }
    Ok(0)
}

async fn receive(client: &mut Client, args: &Args, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let format = match args.format {
        Format::Docker => save_images_request::Format::Docker,
        Format::Oci => save_images_request::Format::Oci,
    };
    let request = SaveImagesRequest { refs: args.images.clone(), format: format.into() };
    let mut stream = client.save_images(request).await?.into_inner();
    while let Some(chunk) = stream.message().await? {
        take(&chunk.data)?;
    }
    Ok(())
}

/// A file that gets its name when it is whole; until then it is beside it, under another one.
struct Target {
    path: PathBuf,
    /// `None`: what is written to is no file, such as a pipe or /dev/null, and is written to as it is.
    partial: Option<PathBuf>,
    file: File,
}

impl Target {
    fn create(path: &Path) -> Result<Self> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |e| Error::io(path, e)
        };
        let plain = std::fs::metadata(path).map_or(true, |m| m.is_file());
        if !plain {
            let file = OpenOptions::new().write(true).open(path).map_err(failed(path))?;
            return Ok(Self { path: path.to_owned(), partial: None, file });
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| Error::local(format!("{}: no file name", path.display())))?;
        let partial = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).open(&partial).map_err(failed(path))?;
        Ok(Self { path: path.to_owned(), partial: Some(partial), file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io(self.path.display().to_string(), e))
    }

    fn finish(mut self) -> Result<()> {
        let failed = |e| Error::io(self.path.display().to_string(), e);
        if let Some(partial) = &self.partial {
            self.file.sync_all().map_err(failed)?;
            std::fs::rename(partial, &self.path).map_err(failed)?;
            self.partial = None;
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            // Why it is not whole is told elsewhere.
            let _ = std::fs::remove_file(partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        let path = dir.path().join("x.tar");
        let mut target = Target::create(&path).unwrap();
        target.write(b"half").unwrap();
        drop(target);
        assert_eq!(names(), 0);
        let mut target = Target::create(&path).unwrap();
        target.write(b"whole").unwrap();
        assert!(!path.exists());
        target.finish().unwrap();
        assert_eq!((names(), std::fs::read(&path).unwrap()), (1, b"whole".to_vec()));
        // What was there stays until then.
        let mut target = Target::create(&path).unwrap();
        target.write(b"newer").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        target.finish().unwrap();
        assert_eq!((names(), std::fs::read(&path).unwrap()), (1, b"newer".to_vec()));
        let mut null = Target::create(Path::new("/dev/null")).unwrap();
        null.write(b"x").unwrap();
        null.finish().unwrap();
        assert!(Target::create(&dir.path().join("none/x")).is_err());
    }
}

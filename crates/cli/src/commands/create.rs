//! `strata create`

use super::Context;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::names::{familiar, with_default_tag};
use crate::options::{Options, PullPolicy};
use crate::output::{Output, complain};
use crate::pulling;
use std::io::Write;

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, override_usage = "strata create [OPTIONS] IMAGE [COMMAND] [ARG...]")]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let created = async {
        let mut client = context.client().await?;
        create(&mut client, &args.options, true).await
    };
    match created.await {
        Ok(id) => {
            Output::Stdout.line(id)?;
            Ok(0)
        }
        Err(e) => refuse("create", &e),
    }
}

/// Says why a container could not be run, in Docker's shape.
pub(super) fn refuse(command: &str, error: &Error) -> Result<i32> {
    complain(format!("strata: {error}\n\nRun 'strata {command} --help' for more information"));
    Ok(error.start_code(125))
}

/// Creates the container, after pulling its image if that is due; its ID.
pub(super) async fn create(client: &mut Client, options: &Options, attached: bool) -> Result<String> {
    let request = options.request(attached)?;
    let id_file = options.cidfile.as_deref().map(IdFile::reserve).transpose()?;
    if options.pull == PullPolicy::Always {
        pull(client, options).await?;
    }
    let created = match client.create_container(request.clone()).await.map_err(Error::from) {
        Err(e) if e.is_not_found() && options.pull == PullPolicy::Missing => {
            complain(format!("Unable to find image '{}' locally", shown(options)));
            pull(client, options).await?;
            client.create_container(request).await?
        }
        other => other?,
    };
    let created = created.into_inner();
    for warning in created.warnings {
        complain(format!("WARNING: {warning}"));
    }
    if let Some(file) = id_file {
        file.write(&created.id)?;
    }
    Ok(created.id)
}

fn shown(options: &Options) -> String {
    familiar(&with_default_tag(options.image())).to_owned()
}

async fn pull(client: &mut Client, options: &Options) -> Result<()> {
    let view = (!options.quiet).then_some(Output::Stderr);
    pulling::pull(client, options.image(), "", view).await.map(drop)
}

/// The file that gets the container's ID; removed again if there is none.
struct IdFile<'a> {
    path: &'a std::path::Path,
    file: Option<std::fs::File>,
}

impl<'a> IdFile<'a> {
    fn reserve(path: &'a std::path::Path) -> Result<Self> {
        let file = std::fs::File::create_new(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Error::local(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            )),
            _ => Error::io(path.display().to_string(), e),
        })?;
        Ok(Self { path, file: Some(file) })
    }

    fn write(mut self, id: &str) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        file.write_all(id.as_bytes()).map_err(|e| Error::io(self.path.display().to_string(), e))
    }
}

impl Drop for IdFile<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            // It was made empty by this process a moment ago; leaving it would only be untidy.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_file_is_written_once_or_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cid");
        drop(IdFile::reserve(&path).unwrap());
        assert!(!path.exists());
        IdFile::reserve(&path).unwrap().write("abc").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
        let e = IdFile::reserve(&path).err().unwrap();
        assert!(e.to_string().starts_with("container ID file found"));
    }
}

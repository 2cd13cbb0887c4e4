//! `strata manual`, for packages: the manual pages of this command.

use super::CommandLine;
use crate::error::{Error, Result};
use clap::CommandFactory;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to write strata.1 and one page for each command
    directory: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<i32> {
    let written = std::fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(CommandLine::command(), &args.directory));
    written.map_err(|e| Error::Io(args.directory.display().to_string(), e))?;
    Ok(0)
}

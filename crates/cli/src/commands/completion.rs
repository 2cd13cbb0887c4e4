//! `strata completion`

use super::CommandLine;
use crate::error::Result;
use crate::output::Output;
use clap::CommandFactory;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args) -> Result<i32> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut CommandLine::command(), "strata", &mut script);
    Output::Stdout.bytes(&script)?;
    Ok(0)
}

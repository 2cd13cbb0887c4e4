//! `strata diff`

use super::Context;
use crate::error::Result;
use crate::output::Output;
use strata_api::debug::change::Kind;
use strata_api::debug::{Change, DiffRequest};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The container
    container: String,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let mut client = context.client().await?;
    let changes = client.diff(DiffRequest { r#ref: args.container.clone() }).await?.into_inner().changes;
    Output::Stdout.bytes(&lines(&changes))?;
    Ok(0)
}

/// `C /path`; names need not be UTF-8, so these are bytes.
fn lines(changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::new();
    for change in changes {
        out.extend_from_slice(match change.kind() {
            Kind::Changed => b"C ",
            Kind::Added => b"A ",
            Kind::Deleted => b"D ",
        });
        out.extend_from_slice(&change.path);
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bytes() {
        let change = |kind: Kind, path: &[u8]| Change { kind: kind.into(), path: path.to_vec() };
        let got = lines(&[
            change(Kind::Changed, b"/a"),
            change(Kind::Added, b"/a/\xff"),
            change(Kind::Deleted, b"/b"),
        ]);
        assert_eq!(got, b"C /a\nA /a/\xff\nD /b\n");
    }
}

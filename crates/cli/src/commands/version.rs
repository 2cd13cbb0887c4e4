//! `strata version`

use super::Context;
use crate::error::{Error, Result};
use crate::output::{Output, complain};
use crate::template::Template;
use serde_json::{Value, json};
use strata_api::debug::InfoRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// `json` or a Go template
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let client = env!("CARGO_PKG_VERSION");
    let server =
        async { Ok::<_, Error>(context.client().await?.info(InfoRequest {}).await?.into_inner()) }.await;
    let mut value = json!({
        "Client": { "Version": client, "Os": std::env::consts::OS, "Arch": std::env::consts::ARCH },
        "Server": Value::Null,
    });
    if let Ok(s) = &server {
        value["Server"] = json!({ "Version": s.version, "Os": s.operating_system, "Arch": s.architecture, "KernelVersion": s.kernel });
    }
    match args.format.as_deref() {
        None | Some("") => {
            let os = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
            Output::Stdout.line(format!("Client:\n Version:        {client}\n OS/Arch:        {os}"))?;
            if let Ok(s) = &server {
                let (version, kernel) = (&s.version, &s.kernel);
                Output::Stdout
                    .line(format!("\nServer:\n Version:        {version}\n Kernel:         {kernel}"))?;
            }
        }
        Some("json") => Output::Stdout.line(value.to_string())?,
        Some(template) => {
            let shown = Template::parse(template).and_then(|t| t.render(&value));
            Output::Stdout.line(shown.map_err(Error::Local)?)?;
        }
    }
    match server {
        Ok(_) => Ok(0),
        Err(e) => {
            complain(format!("strata: {e}"));
            Ok(1)
        }
    }
}

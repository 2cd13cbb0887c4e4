//! `strata inspect`

use super::Context;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::jsontext;
use crate::output::{Output, complain};
use crate::template::Template;
use serde_json::Value;
use strata_api::debug::InspectRequest;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Type {
    /// Containers
    Container,
    /// Images
    Image,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the names are; by default containers, then images
    #[arg(long, value_name = "TYPE")]
    r#type: Option<Type>,
    #[command(flatten)]
    named: Named,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Named {
    /// `json` or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Show sizes of containers
    #[arg(short, long)]
    size: bool,
    /// Names or IDs
    #[arg(value_name = "NAME|ID", required = true)]
    names: Vec<String>,
}

impl Named {
    /// The same for one type only.
    pub(super) fn of(self, r#type: Type) -> Args {
        Args { r#type: Some(r#type), named: self }
    }
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<i32> {
    let template = match args.named.format.as_deref() {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text).map_err(Error::Local)?),
    };
    let mut client = context.client().await?;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in &args.named.names {
        match find(&mut client, args, name).await {
            Ok(json) => found.extend(objects(&json)?),
            Err(e) if e.is_not_found() => {
                missing.push(format!("Error: No such {}: {name}", noun(args.r#type)));
            }
            Err(e) => missing.push(e.to_string()),
        }
    }
    match &template {
        Some(template) => {
            for json in &found {
                let value: Value = serde_json::from_str(json).map_err(|e| unreadable(&e))?;
                Output::Stdout.line(template.render(&value).map_err(Error::Local)?)?;
            }
        }
        None if args.named.format.as_deref() == Some("json") => {
            Output::Stdout.line(format!("[{}]", found.join(",")))?;
        }
        None => Output::Stdout.line(jsontext::indent(&format!("[{}]", found.join(","))))?,
    }
    missing.iter().for_each(complain);
    Ok(i32::from(!missing.is_empty()))
}

fn noun(r#type: Option<Type>) -> &'static str {
    match r#type {
        None => "object",
        Some(Type::Container) => "container",
        Some(Type::Image) => "image",
    }
}

async fn find(client: &mut Client, args: &Args, name: &str) -> Result<String> {
    let request = || InspectRequest { r#ref: name.to_owned(), size: args.named.size };
    if args.r#type != Some(Type::Image) {
        match client.inspect_container(request()).await.map_err(Error::from) {
            Err(e) if e.is_not_found() && args.r#type.is_none() => {}
            other => return Ok(other?.into_inner().json),
        }
    }
    Ok(client.inspect_image(request()).await?.into_inner().json)
}

/// The objects of an array, or the one object, as text.
fn objects(json: &str) -> Result<Option<String>> {
    // Only to be sure that it is JSON: its text stays as it is, for the order of its fields.
    serde_json::from_str::<serde::de::IgnoredAny>(json).map_err(|e| unreadable(&e))?;
    let text = json.trim();
    let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text).trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn unreadable(error: &serde_json::Error) -> Error {
    Error::local(format!("stratad's answer cannot be read: {error}; is it another release?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_and_an_object_are_the_same() {
        assert_eq!(objects("[ {\"b\":1,\"a\":[]} ]\n").unwrap().as_deref(), Some("{\"b\":1,\"a\":[]}"));
        assert_eq!(objects("{\"b\":1}").unwrap().as_deref(), Some("{\"b\":1}"));
        assert_eq!(objects("[]").unwrap(), None);
        assert!(objects("{").is_err());
    }
}

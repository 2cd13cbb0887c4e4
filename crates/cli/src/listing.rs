//! Lists: a table, JSON, or what a template makes of each line.

use crate::error::{Error, Result};
use crate::output::Output;
use crate::table::Table;
use crate::template::Template;
use serde_json::Value;

/// A column: its heading, and the field of a line that it shows.
pub(crate) type Column = (&'static str, &'static str);

/// Prints lines (JSON objects) in the format that was asked for; empty: a table of these columns.
pub(crate) fn print(format: Option<&str>, columns: &[Column], lines: &[Value]) -> Result<()> {
    Output::Stdout.bytes(text(format, columns, lines)?.as_bytes())
}

/// Columns with one for RuntimeClass handlers at the end, if anything has another than the built-in one.
pub(crate) fn with_handlers<'a>(
    columns: &[Column],
    handlers: impl IntoIterator<Item = &'a str>,
) -> Vec<Column> {
    let mut all = columns.to_vec();
    if handlers.into_iter().any(|h| !matches!(h, "" | "strata")) {
        all.push(("RUNTIME", "Runtime"));
    }
    all
}

/// The handler's name as it is shown.
pub(crate) fn handler(name: &str) -> &str {
    if name.is_empty() { "strata" } else { name }
}

/// As [`print`], to a string.
pub(crate) fn text(format: Option<&str>, columns: &[Column], lines: &[Value]) -> Result<String> {
    match format {
        None | Some("" | "table") => Ok(table(columns, lines)),
        Some("json" | "{{json .}}") => Ok(lines.iter().map(|l| format!("{l}\n")).collect()),
        Some(template) => match template.strip_prefix("table ") {
            Some(template) => custom_table(template, columns, lines),
            None => {
                let template = parse(template)?;
                lines.iter().map(|l| Ok(render(&template, l)? + "\n")).collect()
            }
        },
    }
}

fn table(columns: &[Column], lines: &[Value]) -> String {
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let mut table = Table::new(&headings);
    for line in lines {
        table.row(columns.iter().map(|(_, field)| cell(line, field)).collect());
    }
    table.text()
}

/// The heading is the same template, applied to the names of the columns.
fn custom_table(template: &str, columns: &[Column], lines: &[Value]) -> Result<String> {
    let template = parse(template)?;
    let mut names = lines.first().cloned().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    if let Value::Object(names) = &mut names {
        for (field, name) in names.iter_mut() {
            *name = Value::String(field.to_uppercase());
        }
        for (heading, field) in columns {
            names.insert((*field).to_owned(), Value::String((*heading).to_owned()));
        }
    }
    // Without lines, only the fields of the usual columns have names.
    let heading = render(&template, &names).unwrap_or_default();
    let mut table = Table::new(&heading.split('\t').collect::<Vec<_>>());
    for line in lines {
        table.row(render(&template, line)?.split('\t').map(str::to_owned).collect());
    }
    Ok(table.text())
}

fn cell(line: &Value, field: &str) -> String {
    match line.get(field) {
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn parse(template: &str) -> Result<Template> {
    // A shell's argument has these as two characters.
    Template::parse(&template.replace("\\t", "\t").replace("\\n", "\n")).map_err(Error::Local)
}

fn render(template: &Template, line: &Value) -> Result<String> {
    template.render(line).map_err(Error::Local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COLUMNS: [Column; 2] = [("IMAGE ID", "ID"), ("SIZE", "Size")];

    #[test]
    fn handlers_are_shown_where_there_is_more_than_one() {
        assert_eq!(with_handlers(&COLUMNS, ["", "strata"]), COLUMNS);
        assert_eq!(with_handlers(&COLUMNS, ["", "locked"]).last(), Some(&("RUNTIME", "Runtime")));
    }

    #[test]
    fn every_format_shows_the_same_lines() {
        let lines = [json!({"ID": "ab", "Size": "1kB", "Extra": "x"})];
        let show = |f: Option<&str>| text(f, &COLUMNS, &lines).unwrap();
        assert_eq!(show(None), "IMAGE ID   SIZE\nab         1kB\n");
        assert_eq!(show(Some("json")), "{\"Extra\":\"x\",\"ID\":\"ab\",\"Size\":\"1kB\"}\n");
        assert_eq!(show(Some("{{.ID}}:{{.Size}}")), "ab:1kB\n");
        assert_eq!(show(Some("table {{.Size}}\\t{{.Extra}}")), "SIZE      EXTRA\n1kB       x\n");
        assert_eq!(text(Some("table {{.ID}}"), &COLUMNS, &[]).unwrap(), "IMAGE ID\n");
        assert!(text(Some("{{.Nope}}"), &COLUMNS, &lines).is_err());
    }
}

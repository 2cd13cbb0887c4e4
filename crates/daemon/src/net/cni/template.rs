//! A network list made from a template once the node's pod CIDR is known, with the part of Go's text/template that such
//! templates use: `{{.PodCIDR}}`, `{{.PodCIDRRanges}}`, `{{.Routes}}`, `range`, `if`, `else`, `end`, variables, comments and
//! the markers that take blanks away. The names are those of containerd's templates.

use crate::error::{Error, Result};
use crate::net::PodCidrs;
use std::collections::HashMap;
use std::iter::Peekable;

/// A value of the template's data.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Texts(Vec<String>),
    Number(usize),
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Text(String),
    Action(String),
}

#[derive(Debug)]
enum Node {
    Text(String),
    Print(String),
    If(String, Vec<Node>, Vec<Node>),
    /// Names of the index' and the element's variables, what is gone through, the body, what stands for none.
    Range([Option<String>; 2], String, Vec<Node>, Vec<Node>),
}

/// Fills a template in.
///
/// # Errors
/// [`FailedPrecondition`](crate::error::Kind::FailedPrecondition), saying which action is not understood.
pub(super) fn render(template: &str, cidrs: &PodCidrs) -> Result<String> {
    let mut tokens = tokens(template)?.into_iter().peekable();
    let nodes = block(&mut tokens, &[])?;
    let texts = cidrs.texts();
    let mut scope = HashMap::from([
        (".PodCIDR".to_owned(), Value::Text(texts.first().cloned().unwrap_or_default())),
        (".PodCIDRRanges".to_owned(), Value::Texts(texts)),
        (".Routes".to_owned(), Value::Texts(cidrs.routes())),
    ]);
    let mut text = String::new();
    print(&nodes, &mut scope, &mut text)?;
    Ok(text)
}

fn wrong(what: &str) -> Error {
    Error::precondition(format!(
        "{{{{{what}}}}} is not understood; there are .PodCIDR, .PodCIDRRanges and .Routes, with range, if, else and end"
    ))
}

fn tokens(template: &str) -> Result<Vec<Token>> {
    let (mut all, mut rest, mut trim) = (Vec::new(), template, false);
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, next) =
            after.split_once("}}").ok_or_else(|| wrong(after.lines().next().unwrap_or_default()))?;
        let (action, trim_before) = match action.strip_prefix("- ") {
            Some(a) => (a, true),
            None => (action, false),
        };
        let (action, trim_after) = match action.strip_suffix(" -") {
            Some(a) => (a, true),
            None => (action, false),
        };
        let before = if trim { before.trim_start() } else { before };
        all.push(Token::Text(if trim_before { before.trim_end() } else { before }.to_owned()));
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            all.push(Token::Action(action.to_owned()));
        }
        (rest, trim) = (next, trim_after);
    }
    all.push(Token::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(all)
}

/// Nodes up to one of these words, which is left.
fn block(tokens: &mut Peekable<std::vec::IntoIter<Token>>, until: &[&str]) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    loop {
        match tokens.peek() {
            None if until.is_empty() => return Ok(nodes),
            None => return Err(Error::precondition("an {{end}} is missing")),
            Some(Token::Action(action)) if until.contains(&action.as_str()) => return Ok(nodes),
            Some(_) => {}
        }
        match tokens.next() {
            Some(Token::Text(text)) => nodes.push(Node::Text(text)),
            Some(Token::Action(action)) => nodes.push(node(&action, tokens)?),
            None => {}
        }
    }
}

fn node(action: &str, tokens: &mut Peekable<std::vec::IntoIter<Token>>) -> Result<Node> {
    let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
    let rest = rest.trim();
    if !matches!(word, "if" | "range") {
        return if is_operand(action) { Ok(Node::Print(action.to_owned())) } else { Err(wrong(action)) };
    }
    let (variables, operand) = match rest.split_once(":=") {
        Some((variables, operand)) if word == "range" => (variables.trim(), operand.trim()),
        _ => ("", rest),
    };
    let names: Vec<&str> = variables.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
    if !is_operand(operand) || !names.iter().all(|n| n.starts_with('$') && n.len() > 1) {
        return Err(wrong(action));
    }
    let variables = match names.as_slice() {
        [] => [None, None],
        [element] => [None, Some((*element).to_owned())],
        [index, element] => [Some((*index).to_owned()), Some((*element).to_owned())],
        _ => return Err(wrong(action)),
    };
    let body = block(tokens, &["else", "end"])?;
    let otherwise = match tokens.next() {
        Some(Token::Action(word)) if word == "else" => {
            let otherwise = block(tokens, &["end"])?;
            tokens.next();
            otherwise
        }
        _ => Vec::new(),
    };
    Ok(match word {
        "if" => Node::If(operand.to_owned(), body, otherwise),
        _ => Node::Range(variables, operand.to_owned(), body, otherwise),
    })
}

/// A field, the dot, or a variable.
fn is_operand(text: &str) -> bool {
    text.starts_with(['.', '$']) && text.chars().skip(1).all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn print(nodes: &[Node], scope: &mut HashMap<String, Value>, to: &mut String) -> Result<()> {
    let value =
        |scope: &HashMap<String, Value>, name: &str| scope.get(name).cloned().ok_or_else(|| wrong(name));
    for node in nodes {
        match node {
            Node::Text(text) => to.push_str(text),
            Node::Print(name) => match value(scope, name)? {
                Value::Text(text) => to.push_str(&text),
                Value::Number(number) => to.push_str(&number.to_string()),
                Value::Texts(texts) => to.push_str(&format!("[{}]", texts.join(" "))),
            },
            Node::If(name, body, otherwise) => {
                let holds = match value(scope, name)? {
                    Value::Text(text) => !text.is_empty(),
                    Value::Number(number) => number != 0,
                    Value::Texts(texts) => !texts.is_empty(),
                };
                print(if holds { body } else { otherwise }, scope, to)?;
            }
            Node::Range(variables, name, body, otherwise) => {
                let Value::Texts(texts) = value(scope, name)? else {
                    return Err(wrong(&format!("range {name}")));
                };
                if texts.is_empty() {
                    print(otherwise, scope, to)?;
                }
                for (index, text) in texts.into_iter().enumerate() {
                    let mut inner = scope.clone();
                    inner.insert(".".into(), Value::Text(text.clone()));
                    let [index_name, element_name] = variables.clone();
                    index_name.map(|n| inner.insert(n, Value::Number(index)));
                    element_name.map(|n| inner.insert(n, Value::Text(text)));
                    print(body, &mut inner, to)?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(template: &str) -> Result<String> {
        render(template, &PodCidrs::parse("10.1.0.0/24,fd00::/64").unwrap().unwrap())
    }

    #[test]
    fn what_templates_of_clusters_say() {
        assert_eq!(with(r#""subnet": "{{.PodCIDR}}""#).unwrap(), r#""subnet": "10.1.0.0/24""#);
        let ranges =
            r#"[{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}]"#;
        assert_eq!(with(ranges).unwrap(), r#"[[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]]"#);
        let routes = "[\n{{- range .Routes }}\n  {{ . }}\n{{- end }}\n]{{/* all of them */}}";
        assert_eq!(with(routes).unwrap(), "[\n  0.0.0.0/0\n  ::/0\n]");
        assert_eq!(with("{{if .PodCIDR}}a{{else}}b{{end}}").unwrap(), "a");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for bad in [
            "{{.Other}}",
            "{{printf 1}}",
            "{{range .Routes}}",
            "{{.PodCIDR",
            "{{end}}",
            "{{range .PodCIDR}}{{end}}",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
        assert!(with("{{.Other}}").unwrap_err().to_string().contains("{{.Other}}"));
    }
}

//! From text to nodes.

use super::{Call, Node, Operand, Pipe};
use serde_json::Value;
use std::iter::Peekable;
use std::vec::IntoIter;

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Field(Vec<String>),
    Word(String),
    Literal(Value),
    Bar,
    Open,
    Close,
    /// Fields of what stands in parentheses before.
    Access(Vec<String>),
}

enum Piece {
    Text(String),
    Action(String),
}

type Pieces = Peekable<IntoIter<Piece>>;

/// How deep blocks may be nested.
const DEEPEST: usize = 64;

pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut pieces = pieces(text)?.into_iter().peekable();
    let (nodes, end) = block(&mut pieces, 0)?;
    match end {
        None => Ok(nodes),
        Some(word) => Err(format!("unexpected {{{{{word}}}}}")),
    }
}

/// Cuts the text at its actions.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or("unclosed action")?;
        let mut literal = if trim { before.trim_start() } else { before };
        let (action, left) = match action.strip_prefix("- ") {
            Some(inner) => (inner, true),
            None => (action, false),
        };
        let (action, right) = match action.strip_suffix(" -") {
            Some(inner) => (inner, true),
            None => (action, false),
        };
        if left {
            literal = literal.trim_end();
        }
        pieces.push(Piece::Text(literal.to_owned()));
        pieces.push(Piece::Action(action.trim().to_owned()));
        (rest, trim) = (after, right);
    }
    pieces.push(Piece::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(pieces)
}

/// Reads up to `else`, `end` (which is returned) or the end of the text.
fn block(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, Option<String>), String> {
    if depth > DEEPEST {
        return Err("blocks are nested too deeply".into());
    }
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let action = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Action(action) => action,
        };
        let (word, rest) = action.split_once(char::is_whitespace).unwrap_or((&action, ""));
        match word {
            "else" | "end" => return Ok((nodes, Some(action))),
            "if" => {
                let test = pipe_of(rest)?;
                let (then, otherwise) = branches(pieces, depth)?;
                nodes.push(Node::If { test, then, otherwise });
            }
            "range" => {
                let over = pipe_of(rest)?;
                let (each, empty) = branches(pieces, depth)?;
                nodes.push(Node::Range { over, each, empty });
            }
            _ if action.starts_with("/*") => {}
            _ => nodes.push(Node::Show(pipe_of(&action)?)),
        }
    }
    Ok((nodes, None))
}

fn branches(pieces: &mut Pieces, depth: usize) -> Result<(Vec<Node>, Vec<Node>), String> {
    let (first, end) = block(pieces, depth + 1)?;
    match end.as_deref() {
        Some("end") => Ok((first, Vec::new())),
        Some("else") => match block(pieces, depth + 1)? {
            (second, Some(end)) if end == "end" => Ok((first, second)),
            (_, Some(other)) => Err(format!("unexpected {{{{{other}}}}}")),
            (_, None) => Err("unexpected EOF: {{end}} is missing".into()),
        },
        Some(other) => Err(format!("unexpected {{{{{other}}}}}")),
        None => Err("unexpected EOF: {{end}} is missing".into()),
    }
}

fn pipe_of(text: &str) -> Result<Pipe, String> {
    let mut tokens = tokens(text)?.into_iter().peekable();
    let pipe = pipe(&mut tokens, 0)?;
    match tokens.next() {
        None => Ok(pipe),
        Some(_) => Err(format!("unexpected \")\" in {{{{{text}}}}}")),
    }
}

fn pipe(tokens: &mut Peekable<IntoIter<Token>>, depth: usize) -> Result<Pipe, String> {
    if depth > DEEPEST {
        return Err("parentheses are nested too deeply".into());
    }
    let mut calls = Vec::new();
    loop {
        calls.push(call(tokens, depth)?);
        match tokens.peek() {
            Some(Token::Bar) => {
                tokens.next();
            }
            _ => return Ok(calls),
        }
    }
}

fn call(tokens: &mut Peekable<IntoIter<Token>>, depth: usize) -> Result<Call, String> {
    if let Some(Token::Word(name)) = tokens.peek() {
        let name = name.clone();
        tokens.next();
        if !super::eval::FUNCTIONS.contains(&name.as_str()) {
            return Err(format!("function \"{name}\" not defined"));
        }
        let mut operands = Vec::new();
        while !matches!(tokens.peek(), None | Some(Token::Bar | Token::Close)) {
            operands.push(operand(tokens, depth)?);
        }
        return Ok(Call::Function(name, operands));
    }
    operand(tokens, depth).map(Call::Operand)
}

fn operand(tokens: &mut Peekable<IntoIter<Token>>, depth: usize) -> Result<Operand, String> {
    match tokens.next() {
        Some(Token::Field(path)) => Ok(Operand::Field(path)),
        Some(Token::Literal(value)) => Ok(Operand::Literal(value)),
        Some(Token::Open) => {
            let mut inner = pipe(tokens, depth + 1)?;
            if tokens.next() != Some(Token::Close) {
                return Err("unclosed left paren".into());
            }
            if let Some(Token::Access(path)) = tokens.peek() {
                let path = path.iter().cloned().map(|p| Operand::Literal(Value::String(p))).collect();
                inner.push(Call::Function("field".into(), path));
                tokens.next();
            }
            Ok(Operand::Pipe(inner))
        }
        Some(Token::Word(word)) => Err(format!("function \"{word}\" not defined")),
        Some(token) => Err(format!("unexpected {token:?}")),
        None => Err("missing value for command".into()),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            '|' => (Token::Bar, &rest[1..]),
            '(' => (Token::Open, &rest[1..]),
            ')' => (Token::Close, &rest[1..]),
            '"' | '`' => string(rest, first)?,
            '.' => {
                let (path, after) = word(rest);
                let path: Vec<String> =
                    path.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect();
                let token = if tokens.last() == Some(&Token::Close) {
                    Token::Access(path)
                } else {
                    Token::Field(path)
                };
                (token, after)
            }
            c if c.is_ascii_digit() || c == '-' => {
                let (digits, after) = word(rest);
                let number: i64 = digits.parse().map_err(|_| format!("bad number syntax: \"{digits}\""))?;
                (Token::Literal(number.into()), after)
            }
            c if c.is_alphabetic() || c == '_' => {
                let (name, after) = word(rest);
                let token = match name {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    _ => Token::Word(name.to_owned()),
                };
                (token, after)
            }
            other => return Err(format!("unexpected \"{other}\" in {{{{{text}}}}}")),
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    if tokens.is_empty() { Err("missing value for command".into()) } else { Ok(tokens) }
}

fn word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| c.is_whitespace() || "|()\"`".contains(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn string(text: &str, quote: char) -> Result<(Token, &str), String> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => {
                return Ok((Token::Literal(Value::String(value)), &text[at + c.len_utf8()..]));
            }
            '\\' if quote == '"' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, other)) => value.push(other),
                None => break,
            },
            c => value.push(c),
        }
    }
    Err("unterminated quoted string".into())
}

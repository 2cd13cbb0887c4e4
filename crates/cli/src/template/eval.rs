//! From nodes and a value to text.

use super::{Call, Node, Operand, Pipe};
use serde_json::Value;

pub(super) const FUNCTIONS: [&str; 13] =
    ["json", "index", "len", "join", "upper", "lower", "println", "title", "eq", "ne", "not", "and", "or"];

pub(super) fn nodes(nodes: &[Node], dot: &Value, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Show(p) => out.push_str(&text(&pipe(p, dot)?)),
            Node::If { test, then, otherwise } => {
                let branch = if truth(&pipe(test, dot)?) { then } else { otherwise };
                self::nodes(branch, dot, out)?;
            }
            Node::Range { over, each, empty } => {
                let items: Vec<Value> = match pipe(over, dot)? {
                    Value::Array(items) => items,
                    Value::Object(map) => map.into_iter().map(|(_, v)| v).collect(),
                    Value::Null => Vec::new(),
                    other => return Err(format!("range can't iterate over {}", text(&other))),
                };
                if items.is_empty() {
                    self::nodes(empty, dot, out)?;
                }
                for item in &items {
                    self::nodes(each, item, out)?;
                }
            }
        }
    }
    Ok(())
}

fn pipe(calls: &Pipe, dot: &Value) -> Result<Value, String> {
    let mut last = None;
    for call in calls {
        let value = match call {
            Call::Operand(_) if last.is_some() => return Err("only a function can stand after |".into()),
            Call::Operand(o) => operand(o, dot)?,
            Call::Function(name, operands) => {
                let mut values = operands.iter().map(|o| operand(o, dot)).collect::<Result<Vec<_>, _>>()?;
                values.extend(last.take());
                function(name, &values)?
            }
        };
        last = Some(value);
    }
    Ok(last.unwrap_or_default())
}

fn operand(operand: &Operand, dot: &Value) -> Result<Value, String> {
    match operand {
        Operand::Field(path) => {
            let mut value = dot;
            for name in path {
                value = field(value, name)?;
            }
            Ok(value.clone())
        }
        Operand::Literal(value) => Ok(value.clone()),
        Operand::Pipe(p) => pipe(p, dot),
    }
}

fn field<'a>(value: &'a Value, name: &str) -> Result<&'a Value, String> {
    match value {
        Value::Object(map) => map.get(name).ok_or_else(|| format!("map has no entry for key \"{name}\"")),
        Value::Null => Ok(&Value::Null),
        other => Err(format!("can't evaluate field {name} in {}", text(other))),
    }
}

fn function(name: &str, values: &[Value]) -> Result<Value, String> {
    let wrong = || format!("wrong number or type of args for {name}");
    Ok(match (name, values) {
        ("json", [v]) => Value::String(v.to_string()),
        ("eq", [first, others @ ..]) if !others.is_empty() => others.contains(first).into(),
        ("ne", [a, b]) => (a != b).into(),
        ("not", [v]) => (!truth(v)).into(),
        ("and", [.., last]) => values.iter().find(|v| !truth(v)).unwrap_or(last).clone(),
        ("or", [.., last]) => values.iter().find(|v| truth(v)).unwrap_or(last).clone(),
        ("len", [Value::Array(v)]) => v.len().into(),
        ("len", [Value::Object(v)]) => v.len().into(),
        ("len", [Value::String(v)]) => v.len().into(),
        ("upper", [Value::String(v)]) => v.to_uppercase().into(),
        ("lower", [Value::String(v)]) => v.to_lowercase().into(),
        ("title", [Value::String(v)]) => {
            let mut chars = v.chars();
            chars.next().map(|c| c.to_uppercase().chain(chars).collect::<String>()).unwrap_or_default().into()
        }
        ("join", [Value::Array(items), Value::String(with)]) => {
            items.iter().map(text).collect::<Vec<_>>().join(with).into()
        }
        ("println", values) => {
            let mut line = values.iter().map(text).collect::<Vec<_>>().join(" ");
            line.push('\n');
            line.into()
        }
        ("index", [of, keys @ ..]) => {
            let mut value = of;
            for key in keys {
                value = index(value, key)?;
            }
            value.clone()
        }
        // Made by the parser for `(pipe).Field`: the value is the last argument.
        ("field", [path @ .., of]) => {
            let mut value = of;
            for name in path {
                value = field(value, name.as_str().unwrap_or_default())?;
            }
            value.clone()
        }
        _ => return Err(wrong()),
    })
}

fn index<'a>(value: &'a Value, key: &Value) -> Result<&'a Value, String> {
    match (value, key) {
        // A missing key is the empty value, in Go too.
        (Value::Object(map), Value::String(key)) => Ok(map.get(key).unwrap_or(&Value::Null)),
        (Value::Array(items), Value::Number(n)) => n
            .as_u64()
            .and_then(|n| items.get(usize::try_from(n).ok()?))
            .ok_or_else(|| format!("error calling index: index out of range: {n}")),
        (Value::Null, _) => Ok(&Value::Null),
        _ => Err(format!("error calling index: can't index with {}", text(key))),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
    }
}

/// A value as Go's `fmt` prints it.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let items: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{}", text(v))).collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

//! The part of Go's templates that people use with `--format`.
//!
//! Fields (`.A.B`), literals, pipes, `json`, `index`, `len`, `join`, `upper`, `lower`, `println`, `eq`, `ne`, `and`, `or`,
//! `not`, `if`/`else`, `range`.

mod eval;
mod parse;

use serde_json::Value;

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template(Vec<Node>);

#[derive(Debug, PartialEq)]
enum Node {
    Text(String),
    Show(Pipe),
    If { test: Pipe, then: Vec<Node>, otherwise: Vec<Node> },
    Range { over: Pipe, each: Vec<Node>, empty: Vec<Node> },
}

/// Commands, each given the value of the one before as its last argument.
type Pipe = Vec<Call>;

#[derive(Debug, PartialEq)]
enum Call {
    Operand(Operand),
    Function(String, Vec<Operand>),
}

#[derive(Debug, PartialEq)]
enum Operand {
    /// Empty: the value itself.
    Field(Vec<String>),
    Literal(Value),
    Pipe(Pipe),
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        parse::parse(text).map(Self).map_err(|e| format!("template parsing error: {e}"))
    }

    /// Writes a value through it.
    pub(crate) fn render(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        eval::nodes(&self.0, value, &mut out).map_err(|e| format!("template error: {e}"))?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn show(template: &str, value: &Value) -> Result<String, String> {
        Template::parse(template)?.render(value)
    }

    #[test]
    fn what_people_write_works() {
        let v = json!({
            "Id": "ab", "State": {"Pid": 7, "Running": true}, "Env": ["A=1", "B=2"],
            "Networks": {"bridge": {"IPAddress": "10.0.0.2"}}, "Labels": {"a.b/c": "d"}, "Empty": [],
        });
        let cases = [
            ("{{.Id}}", "ab"),
            ("{{ .State.Pid }}-{{.State.Running}}", "7-true"),
            ("{{json .State}}", r#"{"Pid":7,"Running":true}"#),
            ("{{.State | json}}", r#"{"Pid":7,"Running":true}"#),
            ("{{range .Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            ("{{range .Networks}}{{.IPAddress}}{{end}}", "10.0.0.2"),
            ("{{index .Labels \"a.b/c\"}}", "d"),
            ("{{index .Env 1}}", "B=2"),
            ("{{len .Env}}", "2"),
            ("{{join .Env \", \"}}", "A=1, B=2"),
            ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
            ("{{if .Empty}}x{{else}}none{{end}}", "none"),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{.Env}}", "[A=1 B=2]"),
            ("{{.Labels}}", "map[a.b/c:d]"),
            ("{{upper .Id}} {{(index .Networks \"bridge\").IPAddress}}", "AB 10.0.0.2"),
            ("{{if and (eq .Id \"ab\") (not .Empty)}}yes{{end}}", "yes"),
            ("{{ne .State.Pid 7}}", "false"),
            ("a {{- .Id -}} b", "aabb"),
        ];
        for (template, text) in cases {
            assert_eq!(show(template, &v).as_deref(), Ok(text), "{template}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let v = json!({"Id": "ab"});
        assert!(show("{{.Nope}}", &v).unwrap_err().contains("no entry for key \"Nope\""));
        assert!(show("{{.Id", &v).unwrap_err().contains("unclosed action"));
        assert!(show("{{nope .Id}}", &v).unwrap_err().contains("function \"nope\" not defined"));
        assert!(show("{{if .Id}}", &v).unwrap_err().contains("unexpected EOF"));
        assert!(show("{{end}}", &v).unwrap_err().contains("unexpected {{end}}"));
    }
}

//! JSON text, indented without disturbing the order of its fields.

/// JSON with four blanks per level, as `docker inspect` has it.
pub(crate) fn indent(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let mut chars = json.chars().filter(|c| !c.is_control()).peekable();
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            ' ' => {}
            '"' => {
                in_string = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if_eq(&' ').is_some() {}
                let close = if c == '{' { '}' } else { ']' };
                if chars.next_if_eq(&close).is_some() {
                    out.push(close);
                } else {
                    depth += 1;
                    newline(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                newline(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
    }
    out
}

fn newline(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("    ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_fields_stays() {
        let json = "{\"z\":[1,2],\n \"a\": {\"s\":\"x: {\\\"y\\\",\\\\\"},\"e\":[ ],\"o\":{}}";
        let want = "{\n    \"z\": [\n        1,\n        2\n    ],\n    \"a\": {\n        \"s\": \"x: {\\\"y\\\",\\\\\"\n    },\n    \"e\": [],\n    \"o\": {}\n}";
        assert_eq!(indent(json), want);
        let same: serde_json::Value = serde_json::from_str(&indent(json)).unwrap();
        assert_eq!(same, serde_json::from_str::<serde_json::Value>(json).unwrap());
    }
}

//! How much memory a JSON document takes once it is read, judged before that.

/// The most values (objects, lists, strings, numbers) of a manifest, an index or a config: a hundred times what people make.
/// Objects of one key each would otherwise take two hundred times the bytes of a document.
pub const MAX_VALUES: usize = 100_000;

/// Whether it has more values than [`MAX_VALUES`]; what is no JSON is told by whoever reads it.
pub(crate) fn has_too_many_values(bytes: &[u8]) -> bool {
    let (mut values, mut inside, mut escaped) = (1, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            // Before each value but the first of all there is one of these.
            b'{' | b'[' | b',' | b':' if !inside => values += 1,
            _ => {}
        }
    }
    values > MAX_VALUES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_text_is_not() {
        let list = |item: &str, n: usize| format!("[{}]", vec![item; n].join(","));
        assert!(!has_too_many_values(list("0", MAX_VALUES - 2).as_bytes()));
        assert!(has_too_many_values(list("0", MAX_VALUES).as_bytes()));
        assert!(has_too_many_values(list("{\"a\":0}", MAX_VALUES / 3 + 1).as_bytes()));
        let text = format!(
            "{{\"a\\\"\":\"{}\\\\\",\"b\":\"{}\"}}",
            "[,".repeat(MAX_VALUES),
            "{:".repeat(MAX_VALUES)
        );
        assert!(!has_too_many_values(text.as_bytes()));
        assert!(!has_too_many_values(b"") && !has_too_many_values(b"\"\\"));
    }
}

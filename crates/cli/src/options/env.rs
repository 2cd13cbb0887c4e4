//! Environment variables and labels.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// The variables of files, then those of the command line; a bare name takes this process's value, if it has one.
pub(crate) fn collect(files: &[impl AsRef<Path>], given: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for file in files {
        let path = file.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path.display().to_string(), e))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if !line.is_empty() && !line.starts_with('#') {
                let place = || format!("{}, line {}: ", path.display(), number + 1);
                all.extend(variable(line).map_err(|e| Error::local(place() + &e))?);
            }
        }
    }
    for text in given {
        all.extend(variable(text).map_err(Error::Local)?);
    }
    Ok(all)
}

fn variable(text: &str) -> Result<Option<String>, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, _)) => (name, Some(text.to_owned())),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(format!("invalid environment variable: {text}"));
    }
    if name.contains(char::is_whitespace) {
        return Err(format!("variable '{name}' contains whitespaces"));
    }
    Ok(value.or_else(|| std::env::var(name).ok().map(|v| format!("{name}={v}"))))
}

/// Labels as a map; without `=` the value is empty.
pub(crate) fn labels(given: &[String]) -> HashMap<String, String> {
    given
        .iter()
        .map(|l| l.split_once('=').unwrap_or((l, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_from_files_then_from_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("env");
        std::fs::write(&file, "# comment\n\nA=1\nB=x y=z\nPATH\nNO_SUCH_VARIABLE_HERE\n").unwrap();
        let got = collect(&[&file], &["A=2".into(), "C=".into()]).unwrap();
        let path = format!("PATH={}", std::env::var("PATH").unwrap());
        assert_eq!(got, ["A=1", "B=x y=z", &path, "A=2", "C="]);
        std::fs::write(&file, "A B=1\n").unwrap();
        assert!(collect(&[&file], &[]).unwrap_err().to_string().contains("line 1"));
        assert!(collect(&[] as &[&Path], &["=x".into()]).is_err());
    }

    #[test]
    fn a_label_without_a_value_is_empty() {
        let got = labels(&["a=b=c".into(), "d".into()]);
        assert_eq!((got["a"].as_str(), got["d"].as_str()), ("b=c", ""));
    }
}

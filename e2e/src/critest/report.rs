//! ginkgo's report.

use crate::Result;
use serde_json::Value;
use std::time::Duration;

/// A spec, and what became of it.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its full name.
    pub name: String,
    /// ginkgo's word: `passed`, `skipped`, `failed`, `panicked`, `timedout`, `interrupted`…
    pub state: String,
    /// How long it took.
    pub time: Duration,
    /// What failed, and where; empty if nothing did.
    pub failure: String,
    /// Why it skipped itself; empty if it did not, or ginkgo passed it over.
    pub lacking: String,
    /// What it wrote on the way.
    pub output: String,
}

/// Reads what `ginkgo --json-report` wrote: every spec, and why the suite as a whole failed.
pub fn parse(json: &[u8]) -> Result<(Vec<Spec>, Vec<String>)> {
    let suites: Value = serde_json::from_slice(json)?;
    let mut specs = Vec::new();
    let mut reasons = Vec::new();
    for suite in suites.as_array().into_iter().flatten() {
        for reason in suite["SpecialSuiteFailureReasons"].as_array().into_iter().flatten() {
            reasons.push(text(reason));
        }
        for node in suite["SpecReports"].as_array().into_iter().flatten() {
            let spec = spec(node);
            if node["LeafNodeType"] == "It" {
                specs.push(spec);
            } else if !spec.failure.is_empty() {
                reasons.push(format!("{}: {}", text(&node["LeafNodeType"]), spec.failure));
            }
        }
    }
    Ok((specs, reasons))
}

fn spec(node: &Value) -> Spec {
    let mut words: Vec<String> =
        node["ContainerHierarchyTexts"].as_array().into_iter().flatten().map(text).collect();
    words.push(text(&node["LeafNodeText"]));
    let failed = &node["Failure"];
    let message = text(&failed["Message"]);
    let state = text(&node["State"]);
    let place = &failed["Location"];
    let (failure, lacking) = match (message.is_empty(), state.as_str()) {
        (true, _) => (String::new(), String::new()),
        (false, "skipped") => (String::new(), message),
        _ => (format!("{message}\n  at {}:{}", text(&place["FileName"]), place["LineNumber"]), String::new()),
    };
    Spec {
        name: words.join(" "),
        state,
        time: Duration::from_nanos(node["RunTime"].as_u64().unwrap_or(0)),
        failure,
        lacking,
        output: text(&node["CapturedGinkgoWriterOutput"]),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_and_failures_outside_them_are_found() {
        let json = br#"[{ "SpecialSuiteFailureReasons": ["Interrupted"], "SpecReports": [
            { "LeafNodeType": "BeforeSuite", "State": "failed",
              "Failure": { "Message": "no socket", "Location": { "FileName": "util.go", "LineNumber": 9 } } },
            { "LeafNodeType": "It", "ContainerHierarchyTexts": ["[k8s.io] Pod", "runs"], "LeafNodeText": "well",
              "State": "skipped", "RunTime": 2000000, "Failure": { "Message": "no AppArmor" } }
        ] }]"#;
        let (specs, reasons) = parse(json).unwrap();
        assert_eq!(reasons, ["Interrupted", "BeforeSuite: no socket\n  at util.go:9"]);
        assert_eq!(specs[0].name, "[k8s.io] Pod runs well");
        assert_eq!((specs[0].state.as_str(), specs[0].failure.as_str()), ("skipped", ""));
        assert_eq!(specs[0].lacking, "no AppArmor");
        assert_eq!(specs[0].time, Duration::from_millis(2));
    }
}

//! OpenMetrics' text format, read strictly.

use std::collections::{BTreeMap, HashMap, HashSet};

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The type of each family.
    families: HashMap<String, String>,
    /// The value of each series: name and labels.
    series: HashMap<(String, BTreeMap<String, String>), f64>,
}

impl Told {
    /// The sum of all series of this name that have these labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let matches = |have: &BTreeMap<String, String>| {
            labels.iter().all(|(k, v)| have.get(*k).map(String::as_str) == Some(*v))
        };
        self.series.iter().filter(|((n, l), _)| n == name && matches(l)).map(|(_, v)| v).sum()
    }

    /// Whether there is a series of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.series.keys().any(|(n, _)| n == name)
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `key="value",…` without the braces.
fn labels(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {rest:?}"));
        assert!(is_name(key), "{key:?}");
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next() {
                Some((at, '"')) => break at,
                Some((_, '\\')) => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    other => panic!("bad escape {other:?} in {text:?}"),
                },
                Some((_, c)) => value.push(c),
                None => panic!("a label that does not end: {text:?}"),
            }
        };
        assert!(found.insert(key.to_owned(), value).is_none(), "{key} twice in {text:?}");
        rest = after[end + 1..].strip_prefix(',').unwrap_or_else(|| &after[end + 1..]);
    }
    found
}

/// Whether a series' name can be one of a family's.
fn belongs(name: &str, family: &str, kind: &str) -> bool {
    let suffixes: &[&str] = match kind {
        "counter" => &["_total", "_created"],
        "gauge" => &[""],
        "histogram" => &["_bucket", "_sum", "_count", "_created"],
        other => panic!("{family}: type {other}"),
    };
    name.strip_prefix(family).is_some_and(|rest| suffixes.contains(&rest))
}

/// Reads a whole answer; panics with what is wrong with it.
#[track_caller]
pub(super) fn parse(text: &str) -> Told {
    let (mut told, mut helped, mut current) = (Told::default(), HashSet::new(), String::new());
    let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("it does not end in # EOF: {text}"));
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) =
                (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or_default());
            assert!(is_name(name) && !rest.is_empty(), "{line:?}");
            match what {
                "HELP" => assert!(helped.insert(name.to_owned()), "{line:?} comes twice"),
                "TYPE" => {
                    current = name.to_owned();
                    assert!(
                        told.families.insert(current.clone(), rest.to_owned()).is_none(),
                        "{line:?} comes twice"
                    );
                }
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line:?}"),
                _ => panic!("{line:?}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let (name, labels) = match series.split_once('{') {
            None => (series, BTreeMap::new()),
            Some((name, rest)) => {
                (name, labels(rest.strip_suffix('}').unwrap_or_else(|| panic!("{line:?}"))))
            }
        };
        assert!(
            is_name(name) && belongs(name, &current, &told.families[&current]),
            "{line:?} below {current}"
        );
        let value: f64 = value.parse().unwrap_or_else(|e| panic!("{line:?}: {e}"));
        assert!(value >= 0.0, "{line:?}");
        let before = told.series.insert((name.to_owned(), labels), value);
        assert!(before.is_none(), "{line:?} comes twice");
    }
    assert!(told.families.keys().all(|name| helped.contains(name)), "help is missing");
    histograms(&told);
    told
}

/// Buckets grow, and the last of them holds everything.
fn histograms(told: &Told) {
    type Buckets = Vec<(f64, f64)>;
    let mut all: HashMap<(&str, BTreeMap<String, String>), Buckets> = HashMap::new();
    for ((name, labels), value) in &told.series {
        if let Some(family) = name.strip_suffix("_bucket") {
            let mut labels = labels.clone();
            let bound: f64 =
                labels.remove("le").unwrap_or_else(|| panic!("{name} without le")).parse().unwrap();
            all.entry((family, labels)).or_default().push((bound, *value));
        }
    }
    for ((family, labels), mut buckets) in all {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.is_sorted_by_key(|b| b.1), "{family} {labels:?}: {buckets:?}");
        let count = told.series[&(format!("{family}_count"), labels.clone())];
        assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, count), "{family} {labels:?}");
        assert!(told.series.contains_key(&(format!("{family}_sum"), labels)));
    }
}

#[test]
fn it_reads_what_is_right() {
    let text = "# HELP a_seconds help.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\n\
                a_seconds_sum{x=\"1\"} 0.5\na_seconds_count{x=\"1\"} 2\na_seconds_bucket{le=\"0.1\",x=\"1\"} 1\n\
                a_seconds_bucket{le=\"+Inf\",x=\"1\"} 2\n# HELP b help\n# TYPE b counter\nb_total{k=\"q\\\"\\\\,}\"} 7\n# EOF\n";
    let told = parse(text);
    assert_eq!(told.sum("b_total", &[("k", "q\"\\,}")]).to_bits(), 7.0_f64.to_bits());
    assert!(told.has("a_seconds_count") && !told.has("a_seconds"));
}

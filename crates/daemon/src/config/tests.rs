use super::*;
use std::time::Duration;

const SHIPPED: &str = include_str!("../../../../systemd/config.toml");

#[test]
fn the_shipped_file_says_the_defaults() {
    assert_eq!(Config::parse(Path::new("shipped"), SHIPPED).unwrap(), Config::default());
    let uncommented: String = SHIPPED
        .lines()
        .map(|l| match l.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => format!("{rest}\n"),
            _ => format!("{l}\n"),
        })
        .collect();
    assert!(uncommented.contains("\nroot = "), "{uncommented}");
    let parsed = Config::parse(Path::new("uncommented"), &uncommented).unwrap();
    assert_eq!(parsed, Config::default());
    parsed.check().unwrap();
}

#[test]
fn the_shipped_file_names_every_key() {
    // Debug output has every field's name; those that hold tables or values of an enum are keys too.
    let all = format!("{:?}", Config::default());
    let names = all
        .split(|c: char| !(c.is_ascii_alphabetic() || c == '_'))
        .filter(|w| w.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter(|w| all.contains(&format!(" {w}: ")));
    for name in names.filter(|w| w.len() > 1) {
        let table = format!("[{name}]");
        assert!(
            SHIPPED.contains(&format!("#{name} = ")) || SHIPPED.contains(&table),
            "{name} is missing in the shipped file"
        );
    }
}

#[test]
fn an_error_names_key_and_line() {
    let text = "[network]\nsubnet = \"10.0.0.0/8\"\nbrigde = \"x\"\n";
    let told = |path: &str, text: &str| Config::parse(Path::new(path), text).unwrap_err().to_string();
    let message = told("/etc/strata/config.toml", text);
    assert!(
        message
            .starts_with("/etc/strata/config.toml: line 3, \"brigde = \\\"x\\\"\": unknown field `brigde`"),
        "{message}"
    );
    let message = told("x", "[cgroup]\ndriver = \"openrc\"\n");
    assert!(message.contains("unknown variant `openrc`") && message.contains("line 2"), "{message}");
    // An error of the grammar, at the very end of the file.
    let message = told("x", "root = ");
    assert!(message.starts_with("x: line 1, \"root =\": "), "{message}");
    assert!(told("x", "a\n\n").lines().count() == 1);
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let set = |f: fn(&mut Config)| {
        let mut c = Config::default();
        f(&mut c);
        c.check().unwrap_err().to_string()
    };
    assert!(set(|c| c.root = "var".into()).contains("root"));
    assert!(set(|c| c.cgroup.root = "/a/../b".into()).contains("cgroup.root"));
    assert!(set(|c| c.cgroup.root = "/".into()).contains("cgroup.root"));
    assert!(set(|c| c.network.subnet = "10.88.0.0".into()).contains("network.subnet"));
    assert!(set(|c| c.network.bridge = "much-too-long-a-name".into()).contains("network.bridge"));
    assert!(set(|c| c.network.cni_bin_dirs = vec!["bin".into()]).contains("network.cni_bin_dirs"));
    assert!(set(|c| c.network.cni_conf_template = "x".into()).contains("network.cni_conf_template"));
    assert!(set(|c| c.network.cni_timeout = 0).contains("network.cni_timeout"));
    assert!(set(|c| c.log.level = "a=b=c".into()).contains("log.level"));
    assert!(set(|c| c.registry.auth_file = "auth.json".into()).contains("registry.auth_file"));
    let told = set(|c| {
        let auth = super::registry::Auth { auth: "hidden".into(), ..Default::default() };
        c.registry.auth.insert("r.example".into(), auth);
    });
    assert!(told.contains("registry.auth") && told.contains("r.example") && !told.contains("hidden"));
    assert!(set(|c| c.registry.tries = 0).contains("registry.tries"));
    assert!(set(|c| c.registry.stall_timeout = Seconds(Duration::ZERO)).contains("stall_timeout"));
    assert!(set(|c| c.runtime.shim_oom_score_adj = 1001).contains("oom_score_adj"));
}

#[test]
fn a_missing_default_file_is_fine_and_a_named_one_is_not() {
    assert!(matches!(
        Config::load(Some(Path::new("/nonexistent/strata.toml"))),
        Err(ConfigError::Read { .. })
    ));
}

#[test]
fn credentials_are_read_and_not_shown() {
    let text = "[registry.auth.\"r.example:5000/team\"]\nusername = \"me\"\npassword = \"hidden\"\n";
    let config = Config::parse(Path::new("x"), text).unwrap();
    let entry = &config.registry.auth["r.example:5000/team"];
    assert_eq!((entry.username.as_str(), entry.password.as_str()), ("me", "hidden"));
    assert!(!format!("{config:?}").contains("hidden"));
    let typo = text.replace("password", "pasword");
    assert!(Config::parse(Path::new("x"), &typo).unwrap_err().to_string().contains("pasword"));
    let token = "[registry.auth.\"r.example\"]\nidentity_token = \"t\"\n";
    assert_eq!(Config::parse(Path::new("x"), token).unwrap().registry.auth["r.example"].identity_token, "t");
}

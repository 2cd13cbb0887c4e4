use super::*;

const JSON: &str = r#"{
    "cdiVersion": "0.7.0", "kind": "vendor.example/gpu", "annotations": {"a": "b"},
    "devices": [
        {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/null", "permissions": "rw"}]}},
        {"name": "all", "containerEdits": {"env": ["GPU=all"], "additionalGids": [44]}}
    ],
    "containerEdits": {"mounts": [{"hostPath": "/etc", "containerPath": "/x", "options": ["ro", "bind"]}]}
}"#;

#[test]
fn json_and_yaml_say_the_same() {
    let json = Spec::parse(JSON, true).unwrap();
    let yaml = "cdiVersion: \"1.0.0\"\nkind: vendor.example/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    env:\n\
                - name: all\n  containerEdits:\n    env: [GPU=all]\n    additionalGids: [44]\n";
    let yaml = Spec::parse(yaml, false).unwrap();
    for spec in [json, yaml] {
        assert_eq!((spec.kind.as_str(), spec.devices.len()), ("vendor.example/gpu", 2));
        let edits = &spec.devices[1].container_edits;
        assert_eq!(
            (edits.env.as_slice(), edits.additional_gids.as_slice()),
            (["GPU=all".to_owned()].as_slice(), [44].as_slice())
        );
    }
}

#[test]
fn hooks_are_checked() {
    let spec = |hook: &str| {
        format!(
            r#"{{"cdiVersion":"0.3.0","kind":"a/b","devices":[{{"name":"x","containerEdits":{{"hooks":[{hook}]}}}}]}}"#
        )
    };
    let good =
        r#"{"hookName":"createContainer","path":"/bin/h","args":["h","-x"],"env":["A=b"],"timeout":5}"#;
    let parsed = Spec::parse(&spec(good), true).unwrap();
    let hook = &parsed.devices[0].container_edits.hooks[0];
    assert_eq!((hook.point(), hook.args.len(), hook.timeout), (Some(Point::CreateContainer), 2, Some(5)));
    for (from, to, wrong) in [
        ("createContainer", "preCreate", "preCreate"),
        ("createContainer", "", "hookName"),
        ("/bin/h", "bin/h", "absolute"),
        ("/bin/h", "", "absolute"),
        ("\"-x\"", "\"\\u0000\"", "null character"),
        ("A=b", "A", "NAME=value"),
        (":5", ":0", "timeout"),
        (":5", ":-1", "-1"),
        ("\"env\"", "\"environment\"", "environment"),
    ] {
        let error = Spec::parse(&spec(&good.replacen(from, to, 1)), true).unwrap_err();
        assert!(error.contains(wrong), "{to}: {error}");
    }
}

#[test]
fn names_of_interfaces_are_checked() {
    let spec = |device: &str| {
        format!(
            r#"{{"cdiVersion":"1.1.0","kind":"a/b","devices":[{{"name":"x","containerEdits":{{"netDevices":[{device}]}}}}]}}"#
        )
    };
    assert!(Spec::parse(&spec(r#"{"hostInterfaceName":"enp1s0f0v0","name":"net1"}"#), true).is_ok());
    for bad in [
        r#"{"name":"net1"}"#,
        r#"{"hostInterfaceName":"a/b"}"#,
        r#"{"hostInterfaceName":".."}"#,
        r#"{"hostInterfaceName":"eth0","name":"net%d"}"#,
        r#"{"hostInterfaceName":"eth0","name":"sixteen_bytes_xx"}"#,
    ] {
        let error = Spec::parse(&spec(bad), true).unwrap_err();
        assert!(error.contains("netDevices"), "{bad}: {error}");
    }
    let older = spec(r#"{"hostInterfaceName":"eth0"}"#).replace("1.1.0", "1.0.0");
    assert!(Spec::parse(&older, true).unwrap_err().contains("netDevices came with 1.1.0"));
}

#[test]
fn what_is_wrong_is_named() {
    for (from, to, wrong) in [
        ("0.7.0", "2.0.0", "2.0.0"),
        ("0.7.0", "new", "new"),
        ("0.7.0", "1.2.0", "1.2.0"),
        ("0.7.0", "0.9.0", "0.9.0"),
        ("0.7.0", "0.7", "0.7"),
        ("0.7.0", "0.7.0.1", "0.7.0.1"),
        ("0.7.0", "vv0.7.0", "vv0.7.0"),
        ("vendor.example/gpu", "gpu", "vendor/class"),
        ("vendor.example/gpu", "vendor/gpu/x", "vendor/class"),
        ("\"all\"", "\"0\"", "twice"),
        ("\"all\"", "\"-\"", "no name"),
        ("GPU=all", "GPU", "NAME=value"),
        ("GPU=all", "=all", "NAME=value"),
        ("/dev/null", "null", "absolute"),
        ("\"rw\"", "\"rx\"", "permissions"),
        ("\"/x\"", "\"x\"", "mount"),
        ("additionalGids", "moreGids", "moreGids"),
        ("[44]", "[-1]", "-1"),
        ("0.7.0", "0.6.0", "additionalGids came with 0.7.0"),
    ] {
        let error = Spec::parse(&JSON.replacen(from, to, 1), true).unwrap_err();
        assert!(error.contains(wrong), "{to}: {error}");
    }
    assert!(Spec::parse(r#"{"cdiVersion":"0.6.0","kind":"a/b","devices":[]}"#, true).is_err());
    assert!(Spec::parse(": no\n- yaml", false).is_err());
}

use super::*;

fn descriptor(media_type: &str, extra: &str) -> String {
    let digest = Digest::sha256_of(media_type.as_bytes());
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":3{extra}}}"#)
}

fn manifest(layer: &str) -> String {
    let (config, layer) = (descriptor(OCI_CONFIG, ""), descriptor(layer, ""));
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#)
}

#[test]
fn a_manifest_round_trips() {
    let Document::Manifest(m) = Document::parse(OCI_MANIFEST, manifest(OCI_LAYER_GZIP).as_bytes()).unwrap()
    else {
        panic!("no manifest")
    };
    assert_eq!(m.layers[0].compression(), Ok(Compression::Gzip));
    assert_eq!(Document::parse("", &m.to_json()).unwrap(), Document::Manifest(m));
}

#[test]
fn platforms_are_chosen_and_listed() {
    let p = |a: &str, os: &str| format!(r#","platform":{{"os":"{os}","architecture":"{a}"}}"#);
    let list = [p("arm64", "linux"), p("amd64", "linux"), p("unknown", "unknown")]
        .map(|x| descriptor(DOCKER_MANIFEST, &x))
        .join(",");
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_LIST}","manifests":[{list}]}}"#);
    let Document::Index(index) = Document::parse(DOCKER_LIST, text.as_bytes()).unwrap() else { panic!() };
    assert_eq!(index.select(&"linux/amd64".parse().unwrap()).unwrap(), &index.manifests[1].0);
    let error = index.select(&"linux/s390x".parse().unwrap()).unwrap_err().to_string();
    assert_eq!(error, "no manifest for linux/s390x; the index offers linux/arm64, linux/amd64");
    let mut other = index.manifests[1].clone();
    other.0.media_type = "application/vnd.example".into();
    let error = Index { manifests: vec![other] }.select(&"linux/amd64".parse().unwrap()).unwrap_err();
    assert!(
        error.to_string().ends_with("the index offers linux/amd64 as application/vnd.example"),
        "{error}"
    );
    let alone = Index { manifests: vec![(index.manifests[0].0.clone(), None)] };
    assert_eq!(alone.select(&"linux/s390x".parse().unwrap()).unwrap(), &index.manifests[0].0);
}

#[test]
fn deep_ones_do_not_exhaust_the_stack() {
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(40_000), close.repeat(40_000));
    for value in [deep("[", "]"), deep("{\"a\":", "}")] {
        for key in ["config", "layers", "manifests", "annotations"] {
            let text = format!("{{\"schemaVersion\":2,\"{key}\":{value}}}");
            assert!(Document::parse(OCI_MANIFEST, text.as_bytes()).is_err(), "{key}");
            assert!(Document::parse(OCI_INDEX, text.as_bytes()).is_err(), "{key}");
        }
        // What nobody reads is passed over without recursion.
        let unknown = manifest(OCI_LAYER_GZIP).replacen('{', &format!("{{\"x\":{value},"), 1);
        assert!(Document::parse(OCI_MANIFEST, unknown.as_bytes()).is_ok());
    }
}

#[test]
fn what_is_refused() {
    let bad = |t: &str, text: &str| Document::parse(t, text.as_bytes()).unwrap_err();
    assert!(matches!(bad("", "{\"schemaVersion\":1}"), DocumentError::Schema1(_)));
    assert!(matches!(bad("text/html", "{}"), DocumentError::MediaType(_)));
    assert!(matches!(bad(OCI_MANIFEST, "<html>"), DocumentError::Parse { .. }));
    let encrypted = manifest("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
    assert!(matches!(bad(OCI_MANIFEST, &encrypted), DocumentError::Encrypted(_)));
    assert!(matches!(bad(OCI_MANIFEST, &manifest("application/x-odd")), DocumentError::Layer(_)));
    let both = manifest(OCI_LAYER_GZIP).replacen('{', r#"{"manifests":[],"#, 1);
    assert!(bad(OCI_MANIFEST, &both).to_string().contains("ambiguous"));
    let swapped = manifest(OCI_LAYER_GZIP).replacen('{', &format!(r#"{{"mediaType":"{OCI_INDEX}","#), 1);
    assert!(bad(OCI_MANIFEST, &swapped).to_string().contains("served as"));
    let artifact = manifest(OCI_LAYER_GZIP).replace(OCI_CONFIG, "application/vnd.cncf.helm.config.v1+json");
    assert!(bad(OCI_MANIFEST, &artifact).to_string().contains("a Helm chart"));
    let digest = manifest(OCI_LAYER_GZIP).replace("sha256:", "sha256:../");
    assert!(matches!(bad(OCI_MANIFEST, &digest), DocumentError::Digest { .. } | DocumentError::Parse { .. }));
}

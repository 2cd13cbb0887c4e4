//! Whatever a registry calls a manifest is either refused or makes sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strata_oci::document::{ACCEPTED, MAX_LAYERS};
use strata_oci::{Document, Platform};

fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else { return };
    // None of them: the registry did not say.
    let media_type = ACCEPTED.get(usize::from(*choice) % (ACCEPTED.len() + 1)).copied().unwrap_or_default();
    match Document::parse(media_type, text) {
        Ok(Document::Manifest(manifest)) => {
            assert!(manifest.layers.len() <= MAX_LAYERS);
            assert!(manifest.layers.iter().all(|layer| layer.compression().is_ok()));
            let again = Document::parse("", &manifest.to_json()).expect("what is written can be read");
            assert_eq!(again, Document::Manifest(manifest));
        }
        Ok(Document::Index(index)) => {
            let wanted: Platform = "linux/amd64".parse().expect("a platform");
            if let Ok(chosen) = index.select(&wanted) {
                assert!(index.manifests.iter().any(|(listed, _)| listed == chosen));
            }
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
});

//! An image config that is accepted loses nothing when it is written out.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strata_oci::ImageConfig;
use strata_oci::config::chain_ids;

fuzz_target!(|data: &[u8]| {
    if let Ok(config) = ImageConfig::parse(data) {
        let again = ImageConfig::parse(&config.to_json()).expect("what is written can be read");
        assert_eq!(again, config);
        assert_eq!(chain_ids(&config.rootfs.diff_ids).len(), config.rootfs.diff_ids.len());
    }
});

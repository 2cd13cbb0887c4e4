//! A reference that is accepted says the same when it is written out and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use strata_oci::Reference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = Reference::parse(text) {
        let written = reference.to_string();
        assert_eq!(Reference::parse(&written).as_ref(), Ok(&reference), "{written}");
    }
});

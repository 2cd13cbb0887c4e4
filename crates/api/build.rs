//! Compiles `proto/` without an installed protoc.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", proto.display());
    let descriptors = protox::compile(["cri.proto", "debug.proto"], [&proto])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Pod and container records keep the CRI configuration they were made from, as JSON.
        .message_attribute(".runtime.v1", "#[derive(serde::Serialize, serde::Deserialize)]")
        .message_attribute(".runtime.v1", "#[serde(default)]")
        // `secrets.rs` has a Debug for them that shows none.
        .skip_debug([".runtime.v1.AuthConfig", ".strata.debug.v1.RegistryAuth"])
        .compile_fds(descriptors)?;
    Ok(())
}

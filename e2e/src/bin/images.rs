//! `strata-e2e-images`: makes the demonstration's images and pushes them to a registry.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use strata_e2e::Result;
use strata_e2e::images::{Compression, Flavor, Image, Registry, catalog};

/// Makes images from Debian's packages and pushes them to a registry that speaks plain HTTP.
///
/// demo/busybox:latest is busybox alone; demo/stacked:latest has the same busybox layer over another one;
/// demo/debian:latest is a debootstrapped minimal Debian.
#[derive(Parser)]
#[command(name = "strata-e2e-images")]
struct Args {
    /// Where the debootstrapped Debian is kept for the next time.
    #[arg(long, global = true, value_name = "DIR", default_value = "target/e2e-cache")]
    cache: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Fetches what needs the network, unless it is in the cache: to be run before `push`, outside its network namespace.
    Prepare,
    /// Pushes; prints a line per image: reference, digest, compressed size, number of layers.
    Push {
        /// The registry, as seen from the network namespace this runs in.
        #[arg(value_name = "HOST:PORT")]
        registry: String,
        /// Leave demo/debian out: it needs `prepare`, the others do not.
        #[arg(long)]
        no_debian: bool,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = run(Args::parse()).await {
        eprintln!("strata-e2e-images: {error}");
        std::process::exit(1);
    }
}

async fn run(args: Args) -> Result<()> {
    let (registry, no_debian) = match args.what {
        What::Prepare => return catalog::prepare_debian(&args.cache).map(drop),
        What::Push { registry, no_debian } => (Registry::new(registry), no_debian),
    };
    push(&registry, "demo/busybox", &catalog::busybox(Flavor::Oci, Compression::Gzip)?).await?;
    push(&registry, "demo/stacked", &catalog::stacked(Flavor::Docker, Compression::Gzip)?).await?;
    if !no_debian {
        let debian = catalog::debian(&args.cache, Flavor::Oci, Compression::Zstd)?;
        push(&registry, "demo/debian", &debian).await?;
    }
    Ok(())
}

async fn push(registry: &Registry, repository: &str, image: &Image) -> Result<()> {
    registry.push(image, repository, "latest").await?;
    let size: usize = image.layers.iter().map(|layer| layer.bytes.len()).sum();
    println!(
        "{}/{repository}:latest {} {size} bytes, {} layer(s)",
        registry.host(),
        image.digest(),
        image.layers.len()
    );
    Ok(())
}

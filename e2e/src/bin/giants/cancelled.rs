//! How many milliseconds pass from a client's going away until its pull has ended.

use crate::LISTEN;
use k8s_cri::v1 as cri;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_e2e::Result;
use strata_e2e::giants::{self, Announced, Answer, Answers, Giants};
use strata_e2e::node::{Node, leaks};

/// Files of the layer that is unpacked: more than can be done in the time that is measured.
const FILES: u64 = 200_000;
/// Bytes of the layer that is fetched.
const LONG: u64 = 4 << 30;
/// How often it is looked whether something has begun or ended.
const LOOK: Duration = Duration::from_micros(200);

/// Prints it of pulls that fetch, that unpack, and that unpack a layer once more for its place in an image.
pub(crate) fn all(node: &Node, rounds: u32) -> Result<()> {
    let many = giants::layer(&node.dir("many"), |tar| giants::many_files(tar, FILES))?;
    let below = giants::layer(&node.dir("below"), |tar| {
        // Of another mode than the directory that the other layer would make.
        let mut header = tar::Header::new_ustar();
        header.set_path("usr/")?;
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o711);
        header.set_size(0);
        header.set_cksum();
        tar.write_all(header.as_bytes())
    })?;
    let mut answers = giants::image("many", std::slice::from_ref(&many));
    answers.extend(giants::image("placed", &[below, many]));
    answers.extend(long());
    let _server = Giants::start(node.netns(), LISTEN, answers)?;

    let work = node.dir("root/tmp");
    let entries = |below: &str| -> usize {
        let all = leaks::names(&work).into_iter();
        all.map(|name| leaks::names(&work.join(name).join(below)).len()).sum()
    };
    report("while it was fetched", rounds, || leave(node, "long", &|| size(&work) > 1 << 20))?;
    let unpacking = || entries("fs/usr/share/some") > 2;
    report("while it was unpacked", rounds, || leave(node, "many", &unpacking))?;
    node.try_pull(&format!("{LISTEN}/many"))?;
    report("while it was unpacked for its place", rounds, || leave(node, "placed", &unpacking))?;
    for name in ["many", "placed"] {
        let _ = node.within(|| node.strata_plain().args(["rmi", &format!("{LISTEN}/{name}")]).output())?;
    }
    Ok(())
}

/// The answers for an image `long:latest` of one large file, which is made while it is sent.
fn long() -> Answers {
    let layer = giants::digest(b"no layer has these bytes");
    let list =
        json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": LONG });
    let rootfs = json!({ "type": "layers", "diff_ids": [layer] });
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": rootfs }).to_string();
    let digest = giants::digest(config.as_bytes());
    let body = |to: &mut dyn Write| {
        let mut header = tar::Header::new_ustar();
        header.set_path("long")?;
        header.set_size(LONG - 1536);
        header.set_cksum();
        to.write_all(header.as_bytes())?;
        let zeros = vec![0; 64 << 10];
        (0..LONG).step_by(zeros.len()).try_for_each(|_| to.write_all(&zeros))
    };
    let long = Answer { body: Arc::new(body), ..Answer::of("application/octet-stream", "") };
    let mut answers = giants::with_config("long", &digest, config.len() as u64, vec![list]);
    answers.insert(format!("/v2/long/blobs/{digest}"), Answer::of("application/json", config));
    answers.insert(format!("/v2/long/blobs/{layer}"), long.announcing(Announced::Length(LONG)));
    answers
}

/// Bytes of the files in a directory.
fn size(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| m.len()).sum()
}

/// Pulls until something has begun, goes away, and waits until nothing is being written any more; how long that took.
fn leave(node: &Node, name: &str, begun: &dyn Fn() -> bool) -> Result<Duration> {
    let image = cri::ImageSpec { image: format!("{LISTEN}/{name}"), ..Default::default() };
    let request = cri::PullImageRequest { image: Some(image), ..Default::default() };
    let left = node.images(async |mut client| {
        let waiting = async {
            while !begun() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            // The call is dropped with this, and its stream reset.
            () = waiting => {}
            ended = client.pull_image(request) => return Err(ended.err().unwrap_or_else(|| tonic::Status::internal("it was done"))),
        }
        Ok(tonic::Response::new(Instant::now()))
    })?;
    let work = node.dir("root/tmp");
    while !leaks::names(&work).is_empty() {
        std::thread::sleep(LOOK);
    }
    Ok(left.elapsed())
}

fn report(what: &str, rounds: u32, mut round: impl FnMut() -> Result<Duration>) -> Result<()> {
    let mut times = (0..rounds).map(|_| round()).collect::<Result<Vec<_>>>()?;
    times.sort();
    let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    println!(
        "a pull given up {what}: ended within {:.1} ms (median of {rounds}), {:.1} ms (longest)",
        ms(times.get(times.len() / 2)),
        ms(times.last())
    );
    Ok(())
}

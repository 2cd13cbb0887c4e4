//! Several pulls at a time: what they share, how many layers come at once, and what ends them.

use super::*;

#[tokio::test]
async fn those_who_pull_the_same_share_one_download() {
    let Some(rig) = rig().await else { return };
    rig.shelf.image(Some("v1"), "amd64", &["a", "b"]);
    rig.shelf.held.store(true, Ordering::SeqCst);
    let waiting = [rig.pull("app:v1"), rig.pull("app:v1"), rig.pull("app:v1")];
    let release = async {
        while rig.shelf.seen("/blobs/") < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        rig.shelf.held.store(false, Ordering::SeqCst);
    };
    let (all, ()) = tokio::join!(futures_util::future::join_all(waiting), release);
    let ids: Vec<_> = all.into_iter().map(|o| o.unwrap().image.id.clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!((rig.shelf.seen("/manifests/"), rig.shelf.seen("/blobs/")), (1, 3));
}

#[tokio::test]
async fn images_that_share_a_layer_share_its_download_until_one_is_given_up() {
    let Some(rig) = rig().await else { return };
    rig.shelf.image(Some("v1"), "amd64", &["a", "shared"]);
    rig.shelf.image(Some("v2"), "amd64", &["b", "shared"]);
    let of = |file: &str| Digest::sha256_of(&tar(file)).to_string();
    let own = |rig: &Rig, name: &str| {
        let (images, request) = (Arc::clone(&rig.images), rig.request(name));
        tokio::spawn(async move { images.pull(request, None).await })
    };
    rig.shelf.held.store(true, Ordering::SeqCst);
    let first = own(&rig, "one:v1");
    while rig.shelf.seen(&of("shared")) < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = own(&rig, "two:v2");
    while rig.shelf.seen(&of("b")) < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(rig.shelf.seen(&of("shared")), 1);
    first.abort();
    let _ = first.await;
    while rig.shelf.seen(&of("shared")) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.shelf.held.store(false, Ordering::SeqCst);
    let pulled = second.await.unwrap().unwrap();
    assert_eq!(pulled.image.layers.len(), 2);
    assert_eq!(rig.shelf.seen(&of("shared")), 2);
    assert_eq!(rig.unfinished().await, Vec::<String>::new());
    assert_eq!(rig.images.store.images().len(), 1);
}

#[tokio::test]
async fn no_more_layers_come_at_once_than_may() {
    let Some(rig) = rig().await else { return };
    rig.shelf.image(Some("v1"), "amd64", &["a", "b", "c", "d", "e"]);
    rig.shelf.image(Some("v2"), "amd64", &["f", "g"]);
    let config = config::Registry {
        config_path: "/nonexistent".into(),
        max_concurrent_downloads: 2,
        max_node_downloads: 3,
        ..config::Registry::default()
    };
    let client = registry::Client::new(&config).unwrap();
    let images = Arc::new(Images::new(Arc::clone(&rig.images.store), client, &config));
    let own = |name: &str| {
        let (images, request) = (Arc::clone(&images), rig.request(name));
        tokio::spawn(async move { images.pull(request, None).await })
    };
    rig.shelf.held.store(true, Ordering::SeqCst);
    let layers = |files: &[&str]| -> usize {
        files.iter().map(|f| rig.shelf.seen(Digest::sha256_of(&tar(f)).as_str())).sum()
    };
    let pulls = [own("one:v1"), own("two:v2")];
    while layers(&["a", "b", "c", "d", "e", "f", "g"]) < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(layers(&["a", "b", "c", "d", "e", "f", "g"]), 3);
    assert!(layers(&["a", "b", "c", "d", "e"]) <= 2);
    rig.shelf.held.store(false, Ordering::SeqCst);
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn whose_time_is_over_is_told_so() {
    let Some(rig) = rig().await else { return };
    rig.shelf.image(Some("v1"), "amd64", &["a"]);
    rig.shelf.held.store(true, Ordering::SeqCst);
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert("grpc-timeout", "200m".parse().unwrap());
    let hurried = PullRequest { deadline: Deadline::of(&metadata), ..rig.request("app:v1") };
    let (late, patient) = tokio::join!(rig.images.pull(hurried, None), async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        rig.shelf.held.store(false, Ordering::SeqCst);
        rig.pull("app:v1").await
    });
    let late = late.unwrap_err();
    assert_eq!(late.kind(), Kind::DeadlineExceeded);
    assert!(late.to_string().contains("/app:v1") && late.to_string().contains("200ms"), "{late}");
    patient.unwrap();
    assert_eq!(rig.unfinished().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_last_to_leave_ends_the_pull_and_nothing_stays() {
    let Some(rig) = rig().await else { return };
    rig.shelf.image(Some("v1"), "amd64", &["a", "b"]);
    rig.shelf.held.store(true, Ordering::SeqCst);
    let own = |rig: &Rig| {
        let (images, request) = (Arc::clone(&rig.images), rig.request("app:v1"));
        tokio::spawn(async move { images.pull(request, None).await })
    };
    let (first, second) = (own(&rig), own(&rig));
    while rig.shelf.seen("/blobs/") < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.abort();
    let _ = first.await;
    assert!(!second.is_finished());
    second.abort();
    let _ = second.await;
    assert_eq!(rig.unfinished().await, Vec::<String>::new());
    assert!(rig.images.store.images().is_empty());
    rig.shelf.held.store(false, Ordering::SeqCst);
    assert!(rig.pull("app:v1").await.is_ok());
}

/// Begins a pull that unpacks a layer of many files in `d`, and leaves in the middle of that.
async fn leave_while_unpacking(rig: &Rig, name: &str) {
    let work = rig.dir.path().join("tmp");
    let begun = || {
        let entries = std::fs::read_dir(&work).unwrap().flatten();
        entries.filter(|e| std::fs::read_dir(e.path().join("fs/d")).is_ok_and(|d| d.count() > 100)).count()
    };
    let (images, request) = (Arc::clone(&rig.images), rig.request(name));
    let pull = tokio::spawn(async move { images.pull(request, None).await });
    while begun() == 0 {
        assert!(!pull.is_finished());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pull.abort();
    let _ = pull.await;
    assert_eq!(rig.unfinished().await, Vec::<String>::new());
}

/// What has arrived keeps a thread busy for long: it stops, too, and nobody begins beside it.
#[tokio::test]
async fn unpacking_ends_with_the_pull() {
    let Some(rig) = rig().await else { return };
    let mut many: Vec<u8> = (0..100_000).flat_map(|n| entry(&format!("d/{n}"), b"")).collect();
    many.resize(many.len() + 1024, 0);
    let id = hostile::serve_image(&rig, "many", std::slice::from_ref(&many), None, None);
    leave_while_unpacking(&rig, "app:many").await;
    // Had it gone on, the layer would be there.
    let layers = || std::fs::read_dir(rig.dir.path().join("layers")).unwrap().count();
    assert_eq!(layers(), 0);
    assert!(rig.pull("app:many").await.is_ok());
    assert!(rig.dir.path().join("layers").join(id[0].hex()).exists());

    // Where a directory below is another one than the layer would make, it is unpacked once more for that place.
    let mut below = entry("d/", b"");
    below.resize(below.len() + 1024, 0);
    hostile::serve_image(&rig, "placed", &[below, many], None, None);
    leave_while_unpacking(&rig, "app:placed").await;
    assert_eq!(layers(), 2);
    assert!(rig.pull("app:placed").await.is_ok());
    assert_eq!(layers(), 3);
}

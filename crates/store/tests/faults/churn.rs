//! A little of everything, again and again, with a word before each change and after it: for cutting the power.

use crate::check;
use crate::common::{self, Tar};
use crate::scenes::{base, top};
use crate::watch::mark;
use strata_oci::Reference;
use strata_store::{CommitOptions, RecordKind, Result, Store};

pub fn churn(store: &Store) -> Result<()> {
    (0..12).try_for_each(|turn| one_turn(store, "", turn))
}

/// The same by two at once: each has names, pods and containers of its own, some of the layers and images are both's, and what
/// one removes and collects the other may be about to use.
pub fn churn_of_two(store: &Store) -> Result<()> {
    std::thread::scope(|scope| {
        let both = [("left-", 0), ("right-", 100)].map(|(whose, first)| {
            scope.spawn(move || (first..first + 9).try_for_each(|turn| one_turn(store, whose, turn)))
        });
        both.into_iter().try_for_each(|thread| thread.join().unwrap())
    })
}

/// Says before each change what is about to change, and after it how it is now.
fn one_turn(store: &Store, whose: &str, turn: u32) -> Result<()> {
    let id = format!("{turn:064x}");
    let app = format!("{whose}app:{}", turn % 3);
    mark(&format!("image/{app}"));
    let layers =
        if turn.is_multiple_of(2) { vec![base(), own(turn), top()] } else { vec![own(turn % 4), base()] };
    let image = common::pull(store, &app, &layers)?;
    mark(&format!("image/{app}={}", image.id.hex()));

    mark(&format!("pod/{id}"));
    store.put_record(RecordKind::Pod, &id, b"1")?;
    mark(&format!("pod/{id}=1"));
    mark(&format!("container/{id}"));
    let lease = store.lease("churn")?;
    let snapshot = store.create_snapshot(&lease, &id, &image)?;
    store.put_container(&id, b"{}")?;
    mark(&format!("container/{id}={{}}"));
    drop(lease);
    mark(&format!("exit/{id}"));
    store.put_record(RecordKind::Exit, &id, turn.to_string().as_bytes())?;
    mark(&format!("exit/{id}={turn}"));

    let text = turn.to_string();
    let files = [("mine", text.as_str())];
    std::fs::create_dir(snapshot.upper.join("sums")).unwrap();
    std::fs::write(snapshot.upper.join("mine"), &text).unwrap();
    std::fs::write(snapshot.upper.join("sums/mine"), check::sums(&files)).unwrap();
    let mine = format!("{whose}mine:{}", turn % 2);
    mark(&format!("image/{mine}"));
    let name = Some(Reference::parse(&mine).unwrap());
    let committed = store.commit(&id, &CommitOptions { name, ..CommitOptions::default() })?;
    mark(&format!("image/{mine}={}", committed.id.hex()));
    mark(&format!("image/{app}"));
    store.tag(&committed.id, &Reference::parse(&app).unwrap())?;
    mark(&format!("image/{app}={}", committed.id.hex()));

    if !turn.is_multiple_of(4) {
        ["exit", "container", "pod"].iter().for_each(|what| mark(&format!("{what}/{id}")));
        store.remove_container(&id)?;
        mark(&format!("container/{id}=none"));
        store.remove_pod(&id)?;
        mark(&format!("pod/{id}=none"));
    }
    if turn % 3 == 2 {
        [&app, &mine].iter().for_each(|name| mark(&format!("image/{name}")));
        store.remove_image(&committed.id, None, true, |_| String::new())?;
        mark(&format!("image/{mine}=none"));
        mark(&format!("image/{app}=none"));
    }
    Ok(())
}

/// A layer that no other turn has, of many blocks.
fn own(turn: u32) -> Vec<u8> {
    let text = format!("{turn} ").repeat(100_000);
    let files = [("own/file", text.as_str()), ("own/empty", "")];
    let tar = Tar::new().file(files[0].0, files[0].1).file(files[1].0, files[1].1);
    tar.file("sums/own", &check::sums(&files)).done()
}

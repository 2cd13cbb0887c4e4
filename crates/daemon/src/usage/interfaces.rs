//! Traffic of a network namespace's interfaces, from /proc/net/dev as a thread in that namespace sees it
//! (proc_pid_net(5)).

use crate::error::{Error, Kind, Result};
use std::path::PathBuf;
use strata_sys::ns::{self, NsKind};

/// An interface's counters since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// What came in.
    pub(crate) received: Traffic,
    /// What went out.
    pub(crate) sent: Traffic,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Bytes.
    pub(crate) bytes: u64,
    /// Packets.
    pub(crate) packets: u64,
    /// Errors.
    pub(crate) errors: u64,
    /// Packets that were dropped.
    pub(crate) dropped: u64,
}

/// The interfaces of each namespace but for the loopback one; `None` for no namespace, and for one that has gone. One thread
/// visits them all, and ends: no other may ever be left in one.
///
/// # Errors
/// If there can be no such thread.
pub(crate) fn read(namespaces: Vec<Option<PathBuf>>) -> Result<Vec<Option<Vec<Interface>>>> {
    let all = namespaces.len();
    if namespaces.iter().all(Option::is_none) {
        return Ok(vec![None; all]);
    }
    let visit = move || namespaces.into_iter().map(|path| of(&path?)).collect();
    let thread = std::thread::Builder::new().name("traffic".into()).spawn(visit);
    let thread = thread
        .map_err(|e| Error::new(Kind::ResourceExhausted, format!("a thread to enter a namespace: {e}")))?;
    thread.join().map_err(|_| Error::internal("the thread that enters namespaces died"))
}

fn of(path: &std::path::Path) -> Option<Vec<Interface>> {
    let entered = ns::open(path).and_then(|fd| ns::setns(fd, NsKind::Net));
    if let Err(e) = entered {
        // A pod on its way out.
        tracing::debug!(netns = %path.display(), error = %e, "no traffic is told of a network namespace");
        return None;
    }
    match std::fs::read_to_string("/proc/thread-self/net/dev") {
        Ok(text) => Some(parse(&text)),
        Err(e) => {
            tracing::debug!(netns = %path.display(), error = %e, "no traffic is told of a network namespace");
            None
        }
    }
}

/// Two lines of headings, then `name: bytes packets errs drop fifo frame compressed multicast`, and the same for sending.
fn parse(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        // A name may have colons in it.
        let (name, numbers) = line.rsplit_once(':')?;
        let n: Vec<u64> = numbers.split_whitespace().map_while(|w| w.parse().ok()).collect();
        let traffic = |from: usize| match n.get(from..from + 4) {
            Some(&[bytes, packets, errors, dropped]) => Some(Traffic { bytes, packets, errors, dropped }),
            _ => None,
        };
        Some(Interface { name: name.trim().to_owned(), received: traffic(0)?, sent: traffic(8)? })
    };
    text.lines().skip(2).filter_map(line).filter(|i| i.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
  eth0:    1296      16    1    2    0     0          0         0      446       7    3    4    0     0       0          0
net:1:       5       6    7    8    0     0          0         0       9      10   11   12    0     0       0          0
broken: 1 2 3
";
        let found = parse(text);
        let received = Traffic { bytes: 1296, packets: 16, errors: 1, dropped: 2 };
        let sent = Traffic { bytes: 446, packets: 7, errors: 3, dropped: 4 };
        assert_eq!(found[0], Interface { name: "eth0".into(), received, sent });
        assert_eq!((found.len(), found[1].name.as_str(), found[1].sent.dropped), (2, "net:1", 12));
    }

    #[test]
    fn no_namespace_has_no_interfaces() {
        assert_eq!(read(vec![None, None]).unwrap(), [None, None]);
        assert_eq!(read(vec![Some("/nowhere/at/all".into())]).unwrap(), [None]);
    }
}

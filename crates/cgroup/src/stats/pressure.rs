//! Pressure stall information (Documentation/accounting/psi.rst).

/// How much was waited for a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// While at least one task waited.
    pub some: Stalled,
    /// While all tasks waited.
    pub full: Stalled,
}

/// Shares of time that were waited, in hundredths of a percent, and how long all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalled {
    /// Over the last 10 seconds.
    pub avg10: u32,
    /// Over the last 60 seconds.
    pub avg60: u32,
    /// Over the last 300 seconds.
    pub avg300: u32,
    /// All together, in microseconds.
    pub total_us: u64,
}

impl Pressure {
    /// From a `*.pressure` file; `None` if it is empty, as it is where the kernel does not count.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let line = |kind: &str| text.lines().find_map(|l| l.strip_prefix(kind)?.strip_prefix(' '));
        let some = Stalled::parse(line("some")?)?;
        // The kernel had no full line for CPU before 5.13.
        Some(Self { some, full: line("full").and_then(Stalled::parse).unwrap_or_default() })
    }
}

impl Stalled {
    fn parse(text: &str) -> Option<Self> {
        let word = |key: &str| text.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('='));
        Some(Self {
            avg10: hundredths(word("avg10")?)?,
            avg60: hundredths(word("avg60")?)?,
            avg300: hundredths(word("avg300")?)?,
            total_us: word("total")?.parse().ok()?,
        })
    }
}

/// `12.34` as 1234: the kernel writes two decimals.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    let part: u32 = part.parse().ok().filter(|p| *p < 100)?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=4.05 avg60=22.46 avg300=35.94 total=11350691038\nfull avg10=0.00 avg60=0.00 avg300=100.00 total=7\n";
        let found = Pressure::parse(text).unwrap();
        let some = Stalled { avg10: 405, avg60: 2246, avg300: 3594, total_us: 11_350_691_038 };
        assert_eq!((found.some, found.full.avg300, found.full.total_us), (some, 10_000, 7));
        assert_eq!(Pressure::parse(""), None);
        let old = Pressure::parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n").unwrap();
        assert_eq!(old.full, Stalled::default());
    }
}

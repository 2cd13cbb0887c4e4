//! Signals by name and number (signal(7)).

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// glibc keeps the kernel's first two real-time signals for itself, so SIGRTMIN is 34 for programs.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of `TERM`, `SIGTERM`, `15`, `RTMIN+3`, `SIGRTMAX-1`; names in any case.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let synonym = match bare {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        other => other,
    };
    if let Some(n) = NAMES.iter().position(|name| *name == synonym) {
        return i32::try_from(n + 1).ok();
    }
    // Kubernetes spells them RTMINPLUS1 and RTMAXMINUS1, shells RTMIN+1 and RTMAX-1.
    let offset = |rest: &str, sign: char, word: &str| -> Option<i32> {
        match rest.strip_prefix(sign).or_else(|| rest.strip_prefix(word)) {
            Some(digits) => digits.parse().ok().filter(|n| (0..=RTMAX - RTMIN).contains(n)),
            None => rest.is_empty().then_some(0),
        }
    };
    if let Some(rest) = bare.strip_prefix("RTMIN") {
        return offset(rest, '+', "PLUS").map(|n| RTMIN + n);
    }
    bare.strip_prefix("RTMAX").and_then(|rest| offset(rest, '-', "MINUS")).map(|n| RTMAX - n)
}

/// The name of a signal, such as `SIGTERM` or `SIGRTMIN+3`; the number if it has none.
pub fn name(signal: i32) -> String {
    let known = usize::try_from(signal).ok().and_then(|n| NAMES.get(n.checked_sub(1)?));
    match known {
        Some(name) => format!("SIG{name}"),
        None if signal == RTMIN => "SIGRTMIN".into(),
        None if signal == RTMAX => "SIGRTMAX".into(),
        None if (RTMIN..RTMAX).contains(&signal) => format!("SIGRTMIN+{}", signal - RTMIN),
        None => signal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for (text, number) in [
            ("TERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("RTMIN+3", 37),
            ("RTMINPLUS3", 37),
            ("SIGRTMAX-1", 63),
            ("RTMAXMINUS14", 50),
            ("SIGSYS", 31),
            ("SIGIOT", 6),
            ("POLL", 29),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for bad in ["", "0", "65", "-1", "SIG", "RTMIN+31", "RTMIN-1", "FOO"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        for number in 1..=31 {
            assert_eq!(parse(&name(number)), Some(number));
        }
        assert_eq!(name(37), "SIGRTMIN+3");
    }
}

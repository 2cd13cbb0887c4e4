//! Which devices a group's processes may use: files on v1, an eBPF filter on v2 (cgroup-v2.rst, "Device controller").

use crate::group::Group;
use crate::limits::DeviceRule;
use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::os::fd::AsFd;
use strata_sys::CallExt;

/// `BPF_DEVCG_ACC_*` and `BPF_DEVCG_DEV_*` (linux/bpf.h).
const ACCESS: [(char, u32); 3] = [('m', 1), ('r', 2), ('w', 4)];
const ALL_ACCESS: u32 = 7;
const BLOCK: u32 = 1;
const CHAR: u32 = 2;

/// Registers of the filter: what the kernel passes, and what is taken from it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Operations (bpf(2), instruction set in bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// One instruction, as the kernel's structure lies in memory.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: u32) -> u64 {
    // Two registers share a byte: the first in the low half on little-endian machines.
    let registers = if cfg!(target_endian = "little") { target | source << 4 } else { target << 4 | source };
    let (offset, value) = (offset.to_ne_bytes(), value.to_ne_bytes());
    u64::from_ne_bytes([code, registers, offset[0], offset[1], value[0], value[1], value[2], value[3]])
}

/// A filter that allows what some rule allows, and nothing else.
fn compile(rules: &[DeviceRule]) -> std::result::Result<Vec<u64>, String> {
    // The context is `u32 access_type; u32 major; u32 minor`, access in the upper half of the first.
    let mut filter = vec![
        instruction(LOAD_WORD, TYPE, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, WANTED, TYPE, 0, 0),
        instruction(AND, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, WANTED, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules {
        // Register and the value that it must have.
        let mut tests: Vec<(u8, u32)> = Vec::new();
        match rule.kind {
            'a' => {}
            'b' => tests.push((TYPE, BLOCK)),
            'c' => tests.push((TYPE, CHAR)),
            other => return Err(format!("{other:?} is no kind of device")),
        }
        tests.extend(rule.major.map(|major| (MAJOR, major)));
        tests.extend(rule.minor.map(|minor| (MINOR, minor)));
        let mut allowed = 0;
        for letter in rule.access.chars() {
            let bit = ACCESS.iter().find(|(l, _)| *l == letter);
            allowed |= bit.ok_or_else(|| format!("{letter:?} is no access to a device"))?.1;
        }
        let mut body = Vec::new();
        if allowed != ALL_ACCESS {
            body.push(instruction(MOVE_REGISTER, SCRATCH, WANTED, 0, 0));
            body.push(instruction(AND, SCRATCH, 0, 0, ALL_ACCESS & !allowed));
            tests.push((SCRATCH, 0));
        }
        // Each test that fails jumps over the other tests and `return 1`.
        for (n, (register, value)) in tests.iter().enumerate() {
            let over = i16::try_from(tests.len() - n + 1).unwrap_or(i16::MAX);
            body.push(instruction(JUMP_NOT_EQUAL, *register, 0, over, *value));
        }
        body.push(instruction(MOVE, RESULT, 0, 0, 1));
        body.push(instruction(EXIT, 0, 0, 0, 0));
        filter.extend(body);
        if tests.is_empty() {
            // It allows everything. The verifier refuses what nothing can reach.
            return Ok(filter);
        }
    }
    filter.push(instruction(MOVE, RESULT, 0, 0, 0));
    filter.push(instruction(EXIT, 0, 0, 0, 0));
    Ok(filter)
}

impl Group {
    /// Denies every device but these to the processes of its unified group, in the place of what was set before. On a
    /// node whose `devices` controller is v1's, [`Group::apply`] writes the rules there instead.
    pub fn filter_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        let bad = |why: String| Error::Devices(self.name(), why);
        let Some(dir) = self.v2_dir() else {
            return Err(Error::NoController("unified", "a device filter".into()));
        };
        let filter = compile(rules).map_err(bad)?;
        let program = strata_sys::bpf::load_device_filter(&filter).map_err(|e| bad(e.to_string()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&dir, flags, Mode::empty()).call(|| format!("open({dir:?})"))?;
        strata_sys::bpf::set_device_filter(fd.as_fd(), program.as_fd()).map_err(|e| bad(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: char, access: &str) -> DeviceRule {
        DeviceRule { kind, major: None, minor: None, access: access.into() }
    }

    #[test]
    fn nonsense_is_refused_before_the_kernel_sees_it() {
        assert!(compile(&[rule('x', "r")]).unwrap_err().contains("'x'"));
        assert!(compile(&[rule('c', "rq")]).unwrap_err().contains("'q'"));
    }

    #[test]
    fn everything_allowed_needs_no_test() {
        // Six to take the context apart, `return 1`, which is two.
        assert_eq!(compile(&[rule('a', "rwm"), rule('c', "r")]).unwrap().len(), 8);
    }
}

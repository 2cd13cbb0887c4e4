//! Classic BPF (linux/filter.h): policies as one program.
//!
//! ```text
//!   ld arch
//!   jeq X86_64 ── no ──▶ jeq I386 ── no ──▶ ret KILL_PROCESS
//!       │                    │
//!   ld nr; tree          ld nr; tree        tree: jge start of the right half ─▶ right; left …
//!                                           leaf: [ld argument; compare]* ret
//! ```
//!
//! The kernel runs a new filter once per number to find those that it always allows (`seccomp_cache_prepare`): a tree
//! costs it eight comparisons a number where a list costs hundreds.

use super::arch::Abi;
use super::policy::{KILL_PROCESS, Policy, Return, Verdict};
use super::profile::{Condition, Operator};
use super::{Error, MAX_INSTRUCTIONS};

// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) if_true: u8,
    pub(super) if_false: u8,
    pub(super) k: u32,
}

impl Instruction {
    fn new(code: u16, k: u32) -> Self {
        Self { code, if_true: 0, if_false: 0, k }
    }

    /// Its bytes in memory.
    pub(super) fn bytes(&self) -> [u8; 8] {
        let [c0, c1] = self.code.to_ne_bytes();
        let [k0, k1, k2, k3] = self.k.to_ne_bytes();
        [c0, c1, self.if_true, self.if_false, k0, k1, k2, k3]
    }
}

/// The whole program.
pub(super) fn assemble(policies: &[Policy]) -> Result<Vec<Instruction>, Error> {
    let mut program = vec![Instruction::new(LOAD, ARCH)];
    for policy in policies {
        let mut body = vec![Instruction::new(LOAD, NUMBER)];
        body.extend(tree(&policy.segments, policy.abi)?);
        program.extend(branch(EQUAL, policy.abi.audit(), Vec::new(), body)?);
    }
    program.push(Instruction::new(RETURN, KILL_PROCESS));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::TooLong(program.len()));
    }
    Ok(program)
}

/// A balanced tree over segments sorted by their first number.
fn tree(segments: &[(u32, Verdict)], abi: Abi) -> Result<Vec<Instruction>, Error> {
    let (left, right) = segments.split_at(segments.len() / 2);
    match (left, right) {
        ([], [(_, verdict), ..]) => Ok(leaf(verdict, abi)),
        ([..], [(start, _), ..]) => branch(AT_LEAST, *start, tree(left, abi)?, tree(right, abi)?),
        // No segments: never made, since every policy has one at 0.
        (_, []) => Ok(vec![Instruction::new(RETURN, KILL_PROCESS)]),
    }
}

/// `if (A op k) { then } else { otherwise }`; `otherwise` comes first. Where it is empty, what follows is meant.
fn branch(
    code: u16,
    k: u32,
    otherwise: Vec<Instruction>,
    then: Vec<Instruction>,
) -> Result<Vec<Instruction>, Error> {
    let distance = |len: usize| u32::try_from(len).map_err(|_| Error::TooLong(len));
    let mut code_of = Vec::with_capacity(otherwise.len() + then.len() + 2);
    // Conditional jumps reach 255 instructions; farther ones take an unconditional jump.
    let (skip, skips_if_true) =
        if otherwise.is_empty() { (then.len(), false) } else { (otherwise.len(), true) };
    match (u8::try_from(skip), skips_if_true) {
        (Ok(near), true) => code_of.push(Instruction { code, if_true: near, if_false: 0, k }),
        (Ok(near), false) => code_of.push(Instruction { code, if_true: 0, if_false: near, k }),
        (Err(_), true) => {
            code_of.push(Instruction { code, if_true: 0, if_false: 1, k });
            code_of.push(Instruction::new(JUMP, distance(skip)?));
        }
        (Err(_), false) => {
            code_of.push(Instruction { code, if_true: 1, if_false: 0, k });
            code_of.push(Instruction::new(JUMP, distance(skip)?));
        }
    }
    code_of.extend(otherwise);
    code_of.extend(then);
    Ok(code_of)
}

fn leaf(verdict: &Verdict, abi: Abi) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (conditions, value) in &verdict.branches {
        code.extend(guarded(conditions, *value, abi));
    }
    code.push(Instruction::new(RETURN, verdict.otherwise));
    code
}

/// Returns the value if all conditions hold, else goes on behind.
fn guarded(conditions: &[Condition], value: Return, abi: Abi) -> Vec<Instruction> {
    let mut tail = vec![Instruction::new(RETURN, value)];
    for condition in conditions.iter().rev() {
        let mut code = compare(condition, abi.wide()).resolve(tail.len());
        code.append(&mut tail);
        tail = code;
    }
    tail
}

/// Where a step of a comparison goes.
#[derive(Clone, Copy)]
enum To {
    /// On to the next step.
    Next,
    /// The condition holds.
    Holds,
    /// It does not.
    Fails,
}

/// A comparison whose jumps are not yet offsets.
struct Steps(Vec<(u16, u32, To, To)>);

impl Steps {
    /// The instructions, if `behind` others follow that belong to the condition's holding. There are at most six
    /// conditions in a row, since each is on another argument: 6 × 6 + 1 instructions, all within a jump's reach.
    fn resolve(self, behind: usize) -> Vec<Instruction> {
        let len = self.0.len();
        self.0
            .into_iter()
            .enumerate()
            .map(|(at, (code, k, yes, no))| {
                let end = len - at - 1;
                let offset = |to: To| match to {
                    To::Next => 0,
                    To::Holds => end,
                    To::Fails => end + behind,
                };
                let near = |to: To| u8::try_from(offset(to)).unwrap_or(u8::MAX);
                Instruction { code, if_true: near(yes), if_false: near(no), k }
            })
            .collect()
    }
}

fn compare(condition: &Condition, wide: bool) -> Steps {
    use To::{Fails, Holds, Next};
    let (low, high) = halves(condition.value);
    let low_at = ARGUMENTS + 8 * condition.index;
    let load = |at: u32| (LOAD, at, Next, Next);
    let mut steps = Vec::with_capacity(6);
    // The architectures here are little-endian: the upper half is behind the lower one.
    let high_at = low_at + 4;
    let (code, k, yes, no) = match condition.op {
        Operator::Equal => {
            steps.extend([load(high_at), (EQUAL, high, Next, Fails)]);
            (EQUAL, low, Holds, Fails)
        }
        Operator::NotEqual => {
            steps.extend([load(high_at), (EQUAL, high, Next, Holds)]);
            (EQUAL, low, Fails, Holds)
        }
        Operator::Greater => {
            steps.extend([load(high_at), (GREATER, high, Holds, Next), (EQUAL, high, Next, Fails)]);
            (GREATER, low, Holds, Fails)
        }
        Operator::GreaterOrEqual => {
            steps.extend([load(high_at), (GREATER, high, Holds, Next), (EQUAL, high, Next, Fails)]);
            (AT_LEAST, low, Holds, Fails)
        }
        Operator::LessOrEqual => {
            steps.extend([load(high_at), (GREATER, high, Fails, Next), (EQUAL, high, Next, Holds)]);
            (GREATER, low, Fails, Holds)
        }
        Operator::Less => {
            steps.extend([load(high_at), (GREATER, high, Fails, Next), (EQUAL, high, Next, Holds)]);
            (AT_LEAST, low, Fails, Holds)
        }
        Operator::MaskedEqual => {
            let (wanted_low, wanted_high) = halves(condition.value_two & condition.value);
            steps.extend([load(high_at), (AND, high, Next, Next), (EQUAL, wanted_high, Next, Fails)]);
            if !wide {
                steps.clear();
            }
            steps.extend([load(low_at), (AND, low, Next, Next), (EQUAL, wanted_low, Holds, Fails)]);
            return Steps(steps);
        }
    };
    if !wide {
        steps.clear();
    }
    steps.extend([load(low_at), (code, k, yes, no)]);
    Steps(steps)
}

/// The lower and the upper 32 bits.
#[allow(clippy::cast_possible_truncation)] // Exactly what is meant.
fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

//! Profiles as programs of the classic packet filter (seccomp(2), `linux/filter.h`).
//!
//! Each call's rules follow each other, first match first, and a call's own section is jumped to by its number: a chain of
//! comparisons. The kernel works out beforehand which calls do not depend on arguments, and never runs the chain for those.

use std::collections::BTreeMap;

use super::profile::{Action, Argument, Compare, Numbers, Profile};

/// Most instructions that the kernel takes.
const MOST: usize = 4096;
/// `struct seccomp_data`: number, architecture, instruction pointer, six arguments.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// Numbers of the x32 interface of x86_64.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
/// The architecture of 32-bit programs.
#[cfg(target_arch = "x86_64")]
const COMPAT: Option<u32> = Some(0x4000_0003);
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
#[cfg(target_arch = "aarch64")]
const COMPAT: Option<u32> = None;

/// Why there is no program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the profile needs more than the {MOST} instructions that the kernel takes")
    }
}

pub(super) fn compile(profile: &Profile) -> Result<Vec<libc::sock_filter>, TooLong> {
    let mut program = vec![load(ARCHITECTURE)];
    if let Some(compat) = COMPAT.filter(|_| profile.compat) {
        enclose(&mut program, compat, decide(profile, |numbers| &numbers.compat));
    }
    // Programs for other architectures find that there are no calls, rather than calls that mean something else.
    program.push(jump(libc::BPF_JEQ, NATIVE, 1, 0));
    program.push(answer(Action::errno(libc::ENOSYS)));
    #[cfg(target_arch = "x86_64")]
    {
        program.push(load(NUMBER));
        program.push(jump(libc::BPF_JGE, X32, 0, 1));
        program.push(answer(Action::errno(libc::ENOSYS)));
    }
    program.extend(decide(profile, |numbers| &numbers.native));
    if program.len() > MOST { Err(TooLong) } else { Ok(program) }
}

/// What becomes of a call of one architecture, by its number; always answers.
fn decide(profile: &Profile, of: impl Fn(&Numbers) -> &[u32]) -> Vec<libc::sock_filter> {
    let mut calls: BTreeMap<u32, Vec<(&[Argument], Action)>> = BTreeMap::new();
    for rule in &profile.rules {
        for number in of(&rule.numbers) {
            calls.entry(*number).or_default().push((&rule.arguments, rule.action));
        }
    }
    let mut program = vec![load(NUMBER)];
    for (number, rules) in calls {
        let mut section = Vec::new();
        let mut decided = false;
        for (arguments, action) in rules {
            let checks = checks(arguments);
            section.extend(checks);
            section.push(answer(action));
            if arguments.is_empty() {
                decided = true;
                break;
            }
        }
        if !decided {
            section.push(answer(profile.otherwise));
        }
        enclose(&mut program, number, section);
    }
    program.push(answer(profile.otherwise));
    program
}

/// Adds what is only for this value of what was loaded.
fn enclose(program: &mut Vec<libc::sock_filter>, value: u32, section: Vec<libc::sock_filter>) {
    // Jumps beside a comparison reach 255 instructions; a plain one reaches all.
    program.push(jump(libc::BPF_JEQ, value, 1, 0));
    program.push(statement(libc::BPF_JMP | libc::BPF_JA, section.len() as u32));
    program.extend(section);
}

/// Comparisons of arguments; where one fails, on behind the answer that follows them.
fn checks(arguments: &[Argument]) -> Vec<libc::sock_filter> {
    /// One half of an argument: where it is, what is done to it, and what follows from comparing it.
    struct Step {
        offset: u32,
        mask: Option<u32>,
        jump: u32,
        value: u32,
        yes: Next,
        no: Next,
    }
    #[derive(Clone, Copy, PartialEq)]
    enum Next {
        /// The next step.
        On,
        /// The next argument.
        Holds,
        Fails,
    }
    use Next::{Fails, Holds, On};
    let (eq, gt, ge) = (libc::BPF_JEQ, libc::BPF_JGT, libc::BPF_JGE);
    let mut all: Vec<Vec<Step>> = Vec::new();
    for argument in arguments {
        let low = ARGUMENTS + u32::from(argument.index) * 8;
        let (low, high) =
            if cfg!(target_endian = "little") { (low, low + 4) } else { (low + 4, low) };
        let halves = |value: u64| ((value >> 32) as u32, value as u32);
        let (h, l) = halves(argument.value);
        let step = |offset, jump, value, yes, no| Step { offset, mask: None, jump, value, yes, no };
        all.push(match argument.compare {
            Compare::Equal => vec![step(high, eq, h, On, Fails), step(low, eq, l, Holds, Fails)],
            Compare::NotEqual => vec![step(high, eq, h, On, Holds), step(low, eq, l, Fails, Holds)],
            Compare::Greater => vec![
                step(high, gt, h, Holds, On),
                step(high, eq, h, On, Fails),
                step(low, gt, l, Holds, Fails),
            ],
            Compare::GreaterOrEqual => vec![
                step(high, gt, h, Holds, On),
                step(high, eq, h, On, Fails),
                step(low, ge, l, Holds, Fails),
            ],
            Compare::Less => vec![
                step(high, gt, h, Fails, On),
                step(high, eq, h, On, Holds),
                step(low, ge, l, Fails, Holds),
            ],
            Compare::LessOrEqual => vec![
                step(high, gt, h, Fails, On),
                step(high, eq, h, On, Holds),
                step(low, gt, l, Fails, Holds),
            ],
            Compare::Masked(mask) => {
                let (mask_high, mask_low) = halves(mask);
                let masked = |offset, mask, value, yes| Step {
                    offset,
                    mask: Some(mask),
                    jump: eq,
                    value,
                    yes,
                    no: Fails,
                };
                vec![masked(high, mask_high, h, On), masked(low, mask_low, l, Holds)]
            }
        });
    }
    let size = |step: &Step| if step.mask.is_some() { 3 } else { 2 };
    let total: usize = all.iter().flatten().map(size).sum();
    let mut code = Vec::with_capacity(total);
    for steps in &all {
        let end: usize = code.len() + steps.iter().map(size).sum::<usize>();
        for step in steps {
            code.push(load(step.offset));
            if let Some(mask) = step.mask {
                code.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask));
            }
            let here = code.len() + 1;
            // At most six arguments of six instructions: never out of a jump's reach.
            let target = |next: Next| match next {
                On => 0,
                Holds => (end - here) as u8,
                Fails => (total + 1 - here) as u8,
            };
            code.push(jump(step.jump, step.value, target(step.yes), target(step.no)));
        }
    }
    code
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn jump(how: u32, k: u32, yes: u8, no: u8) -> libc::sock_filter {
    let code = (libc::BPF_JMP | how | libc::BPF_K) as u16;
    libc::sock_filter { code, jt: yes, jf: no, k }
}

fn answer(action: Action) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action.0)
}

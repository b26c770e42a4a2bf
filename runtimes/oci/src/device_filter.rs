//! Which devices a container may use, where there are only cgroups of version 2: a program that the kernel asks.
//!
//! libcontainer can do this, but needs C libraries for it. The program is a list of comparisons (`bpf(2)`,
//! `BPF_PROG_TYPE_CGROUP_DEVICE`), of which the last rule that fits counts, as with version 1.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use serde_json::Value;

/// One instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND_32: u8 = 0x54;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_REGISTER_NOT_EQUAL: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// `access << 16 | type` of `struct bpf_cgroup_dev_ctx`.
const ACCESS: &[(char, i32)] = &[('m', 1), ('r', 2), ('w', 4)];
const TYPES: &[(&str, i32)] = &[("b", 1), ("c", 2)];

/// Puts rules in force for the group in that folder.
pub(crate) fn attach(folder: &Path, rules: &[Value]) -> io::Result<()> {
    let program = load(&compile(rules))?;
    let folder = File::open(folder)?;
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attach = Attach {
        target: folder.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: the structure is the beginning of the union that the call takes, and lives until it returns.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attach, size_of::<Attach>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        licence: c"Apache".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
    };
    // SAFETY: as above; the program lives until the call returns, and the descriptor is fresh.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &load, size_of::<Load>());
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

fn compile(rules: &[Value]) -> Vec<Instruction> {
    let i = |code, to: u8, from: u8, offset, value| Instruction {
        code,
        registers: from << 4 | to,
        offset,
        value,
    };
    // r2: type; r3: access; r4: major; r5: minor. r1 points to the question.
    let mut program = vec![
        i(LOAD_WORD, 2, 1, 0, 0),
        i(MOVE_REGISTER, 3, 2, 0, 0),
        i(AND_32, 2, 0, 0, 0xffff),
        i(SHIFT_RIGHT_32, 3, 0, 0, 16),
        i(LOAD_WORD, 4, 1, 4, 0),
        i(LOAD_WORD, 5, 1, 8, 0),
    ];
    // The last rule that fits counts, so it is asked first.
    for rule in rules.iter().rev() {
        let mut tests = Vec::new();
        let number = |name: &str| rule[name].as_i64().and_then(|n| i32::try_from(n).ok());
        if let Some((_, kind)) = TYPES.iter().find(|(name, _)| rule["type"] == *name) {
            tests.push(vec![i(JUMP_NOT_EQUAL, 2, 0, 0, *kind)]);
        }
        let letters = rule["access"].as_str().unwrap_or("rwm");
        let bits = ACCESS.iter().filter(|(c, _)| letters.contains(*c)).fold(0, |b, (_, n)| b | n);
        if bits != 7 {
            // Nothing is asked for that the rule does not name.
            tests.push(vec![
                i(MOVE_REGISTER, 1, 3, 0, 0),
                i(AND_32, 1, 0, 0, bits),
                i(JUMP_REGISTER_NOT_EQUAL, 1, 3, 0, 0),
            ]);
        }
        for (name, register) in [("major", 4), ("minor", 5)] {
            tests.extend(number(name).map(|n| vec![i(JUMP_NOT_EQUAL, register, 0, 0, n)]));
        }
        let allowed = i32::from(rule["allow"] == true);
        let mut section: Vec<Instruction> = tests.into_iter().flatten().collect();
        let end = section.len() + 2;
        for (at, instruction) in section.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_NOT_EQUAL | JUMP_REGISTER_NOT_EQUAL) {
                instruction.offset = (end - at - 1) as i16;
            }
        }
        let always = section.is_empty();
        program.extend(section);
        program.extend([i(MOVE, 0, 0, 0, allowed), i(EXIT, 0, 0, 0, 0)]);
        if always {
            // The kernel refuses what can never be reached.
            return program;
        }
    }
    program.extend([i(MOVE, 0, 0, 0, 0), i(EXIT, 0, 0, 0, 0)]);
    program
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a program answers, as the kernel would run it.
    fn ask(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> i64 {
        let question = [i64::from(access << 16 | kind), i64::from(major), i64::from(minor)];
        let (mut r, mut at) = ([0i64; 11], 0usize);
        loop {
            let i = program[at];
            at += 1;
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            match i.code {
                LOAD_WORD => r[to] = question[i.offset as usize / 4],
                MOVE => r[to] = i.value.into(),
                MOVE_REGISTER => r[to] = r[from],
                AND_32 => r[to] &= i64::from(i.value),
                SHIFT_RIGHT_32 => r[to] >>= i.value,
                JUMP_NOT_EQUAL if r[to] != i64::from(i.value) => at += i.offset as usize,
                JUMP_REGISTER_NOT_EQUAL if r[to] != r[from] => at += i.offset as usize,
                JUMP_NOT_EQUAL | JUMP_REGISTER_NOT_EQUAL => {}
                EXIT => return r[0],
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_fits_counts() {
        let rules = [
            json!({"allow": false, "access": "rwm"}),
            json!({"allow": true, "type": "c", "access": "m"}),
            json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}),
            json!({"allow": true, "type": "c", "major": 136, "access": "rw"}),
        ];
        let program = compile(&rules);
        let (block, character) = (1, 2);
        let (make, read, write) = (1, 2, 4);
        assert_eq!(ask(&program, character, read | write, 1, 3), 1);
        assert_eq!(ask(&program, character, read, 1, 5), 0);
        assert_eq!(ask(&program, character, make, 9, 9), 1);
        assert_eq!(ask(&program, character, make | read, 9, 9), 0);
        assert_eq!(ask(&program, character, read | write, 136, 7), 1);
        assert_eq!(ask(&program, block, read, 1, 3), 0);
        assert_eq!(ask(&program, block, make, 8, 0), 0);
        assert_eq!(
            ask(&compile(&[json!({"allow": true, "access": "rwm"})]), block, write, 8, 0),
            1
        );
    }

    #[expect(
        clippy::print_stdout,
        reason = "who reads the tests' output is told what was left out"
    )]
    #[test]
    fn the_kernel_takes_it() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let rules = [
            json!({"allow": false, "access": "rwm"}),
            json!({"allow": true, "type": "c", "access": "m"}),
        ];
        load(&compile(&rules)).unwrap();
    }
}

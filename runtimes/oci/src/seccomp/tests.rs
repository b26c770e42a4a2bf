use std::collections::HashSet;

use super::profile::{Action, Numbers, parse};
use super::*;

/// What a filter answers, as the kernel would run it.
fn run(program: &[libc::sock_filter], data: &[u8]) -> u32 {
    let (mut a, mut at) = (0u32, 0usize);
    loop {
        let i = &program[at];
        at += 1;
        let code = u32::from(i.code);
        match code & 7 {
            libc::BPF_LD => {
                let bytes = data[i.k as usize..][..4].try_into().unwrap();
                a = u32::from_ne_bytes(bytes);
            }
            libc::BPF_ALU => a &= i.k,
            libc::BPF_RET => return i.k,
            libc::BPF_JMP if code & 0xf0 == libc::BPF_JA => at += i.k as usize,
            libc::BPF_JMP => {
                let yes = match code & 0xf0 {
                    libc::BPF_JEQ => a == i.k,
                    libc::BPF_JGT => a > i.k,
                    libc::BPF_JGE => a >= i.k,
                    other => panic!("jump {other}"),
                };
                at += usize::from(if yes { i.jt } else { i.jf });
            }
            other => panic!("instruction {other}"),
        }
    }
}

const NATIVE: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

fn answer(filter: &Filter, name: &str, arguments: &[u64]) -> Action {
    answer_to(filter, NATIVE, Numbers::of([name]).native[0], arguments)
}

fn answer_to(filter: &Filter, architecture: u32, number: u32, arguments: &[u64]) -> Action {
    let mut data = number.to_ne_bytes().to_vec();
    data.extend(architecture.to_ne_bytes());
    data.extend([0; 8]);
    for n in 0..6 {
        data.extend(arguments.get(n).copied().unwrap_or(0).to_ne_bytes());
    }
    Action(run(&filter.program, &data))
}

fn usual(capabilities: Set) -> Filter {
    filter(&Seccomp::RuntimeDefault, capabilities).unwrap().unwrap()
}

#[test]
fn the_usual_profile_lets_programs_run_and_keeps_them_in() {
    let none = usual(Set::default());
    for name in ["read", "openat", "execve", "futex", "socket", "capset", "prctl", "exit_group"] {
        assert_eq!(answer(&none, name, &[1]), Action::ALLOW, "{name}");
    }
    let refused = Action::errno(libc::EPERM);
    for name in ["mount", "setns", "unshare", "keyctl", "bpf", "reboot", "io_uring_setup", "chroot"]
    {
        assert_eq!(answer(&none, name, &[]), refused, "{name}");
    }
    assert_eq!(answer(&none, "clone", &[libc::SIGCHLD as u64]), Action::ALLOW);
    assert_eq!(answer(&none, "clone", &[libc::CLONE_NEWUSER as u64]), refused);
    assert_eq!(answer(&none, "clone3", &[]), Action::errno(libc::ENOSYS));
    assert_eq!(answer(&none, "socket", &[libc::AF_VSOCK as u64]), refused);
    assert_eq!(answer(&none, "personality", &[0xffff_ffff]), Action::ALLOW);
    assert_eq!(answer(&none, "personality", &[0x4_0000]), refused);
    let all = usual(Set::default().to_confine());
    assert_eq!(answer(&all, "mount", &[]), Action::ALLOW);
    assert_eq!(answer(&all, "clone", &[libc::CLONE_NEWUSER as u64]), Action::ALLOW);
}

/// Their calls have other numbers, which mean something else in others: 21 is mount there, and access here.
#[test]
#[cfg(target_arch = "x86_64")]
fn programs_of_32_bits_follow_the_same_rules() {
    const I386: u32 = 0x4000_0003;
    let refused = Action::errno(libc::EPERM);
    let ask = |filter: &Filter, name: &str, arguments: &[u64]| {
        answer_to(filter, I386, Numbers::of([name]).compat[0], arguments)
    };
    let none = usual(Set::default());
    for name in ["read", "mmap2", "stat64", "socketcall", "set_thread_area", "futex_time64"] {
        assert_eq!(ask(&none, name, &[]), Action::ALLOW, "{name}");
    }
    for name in ["mount", "umount", "bpf", "keyctl", "stime"] {
        assert_eq!(ask(&none, name, &[]), refused, "{name}");
    }
    assert_eq!(ask(&none, "clone", &[libc::CLONE_NEWUSER as u64]), refused);
    assert_eq!(ask(&usual(Set::default().to_confine()), "mount", &[]), Action::ALLOW);
    // A profile says whether it is for them, too.
    let profile = |architectures: &str| {
        let rule = r#"{"names": ["getpid"], "action": "SCMP_ACT_ERRNO"}"#;
        let profile = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", {architectures} "syscalls": [{rule}]}}"#
        );
        filter(&Seccomp::Localhost { profile }, Set::default()).unwrap().unwrap()
    };
    let not_there = Action::errno(libc::ENOSYS);
    for (architectures, getpid, read) in [
        ("", not_there, not_there),
        (r#""architectures": ["SCMP_ARCH_X86_64"],"#, not_there, not_there),
        (r#""architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],"#, refused, Action::ALLOW),
        (
            r#""archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],"#,
            refused,
            Action::ALLOW,
        ),
    ] {
        let filter = profile(architectures);
        assert_eq!(
            (ask(&filter, "getpid", &[]), ask(&filter, "read", &[])),
            (getpid, read),
            "{architectures}"
        );
    }
}

#[test]
fn comparisons_look_at_all_64_bits() {
    const ABOVE: u64 = 5 << 32;
    let check = |op: &str, value: u64, two: u64, holds: &[u64], fails: &[u64]| {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_KILL", "syscalls": [{{"names": ["read", "nonsense"], "action": "SCMP_ACT_ALLOW",
                "args": [{{"index": 2, "value": {value}, "valueTwo": {two}, "op": "{op}"}}]}}]}}"#
        );
        let wanted = Seccomp::Localhost { profile: text };
        let filter = filter(&wanted, Set::default()).unwrap().unwrap();
        for (values, expected) in [(holds, Action::ALLOW), (fails, Action(0))] {
            for value in values {
                assert_eq!(answer(&filter, "read", &[9, 9, *value]), expected, "{op} {value:x}");
            }
        }
    };
    let (less, more) = (ABOVE + 6, ABOVE + 8);
    let value = ABOVE + 7;
    let (far_less, far_more) = (u64::from(u32::MAX), 6 << 32);
    check("SCMP_CMP_EQ", value, 0, &[value], &[7, less, more, far_less, far_more]);
    check("SCMP_CMP_NE", value, 0, &[7, less, more, far_less, far_more], &[value]);
    check("SCMP_CMP_LT", value, 0, &[7, less, far_less], &[value, more, far_more]);
    check("SCMP_CMP_LE", value, 0, &[7, less, far_less, value], &[more, far_more]);
    check("SCMP_CMP_GT", value, 0, &[more, far_more], &[7, value, less, far_less]);
    check("SCMP_CMP_GE", value, 0, &[more, far_more, value], &[7, less, far_less]);
    let mask = 1 << 40 | 6;
    check("SCMP_CMP_MASKED_EQ", mask, 4, &[4, 5, 12], &[0, 6, 1 << 40 | 4]);
}

#[test]
fn what_is_not_understood_is_refused() {
    let check = |text: &str, expected: &str| {
        let error = parse(text, Set::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    };
    check("{", "EOF");
    check(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY");
    check(r#"{"defaultAction": "SCMP_ACT_ALLOW", "surprise": 1}"#, "surprise");
    check(r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}"#, "listenerPath");
    check(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_S390X"]}"#,
        "architectures",
    );
    check(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
        "argument 6",
    );
}

#[test]
fn conditions_choose_rules() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
        {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["unshare"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}}]}"#;
    let wanted = Seccomp::Localhost { profile: text.into() };
    let allowed = |set: Set| -> HashSet<&str> {
        let filter = filter(&wanted, set).unwrap().unwrap();
        let names = ["mount", "unshare", "ptrace", "bpf"].into_iter();
        names.filter(|name| answer(&filter, name, &[]) == Action::ALLOW).collect()
    };
    assert_eq!(allowed(Set::default()), HashSet::from(["unshare", "ptrace"]));
    assert_eq!(allowed(Set::default().to_confine()), HashSet::from(["mount", "ptrace"]));
    let filter = filter(&wanted, Set::default()).unwrap().unwrap();
    assert_eq!(answer(&filter, "bpf", &[]), Action::errno(38));
}

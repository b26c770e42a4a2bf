//! Profiles as people write them: JSON of the OCI runtime specification (`linux.seccomp`), with Docker's conditions.
//!
//! What is not understood is refused: a rule that is left out may be the one that mattered.

use std::fmt;

use serde::Deserialize;

use super::numbers::{COMPAT, NUMBERS};
use crate::capabilities::Set;

/// Bytes of a profile; Docker's own has 13,000.
const MOST_BYTES: usize = 1 << 20;

/// What becomes of a call, as the kernel has it: `SECCOMP_RET_*` and its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Action(pub(super) u32);

impl Action {
    pub(super) const ALLOW: Action = Action(libc::SECCOMP_RET_ALLOW);

    pub(super) fn errno(errno: i32) -> Action {
        Action(libc::SECCOMP_RET_ERRNO | errno as u32 & libc::SECCOMP_RET_DATA)
    }
}

/// A condition on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Argument {
    /// 0 to 5.
    pub(super) index: u8,
    pub(super) compare: Compare,
    pub(super) value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal in these bits.
    Masked(u64),
}

/// How some calls are numbered: what has no number does not exist, so there is nothing to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) native: Vec<u32>,
    /// In 32-bit programs.
    pub(super) compat: Vec<u32>,
}

impl Numbers {
    pub(super) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Numbers {
        let mut numbers = Numbers::default();
        let find = |table: &[(&str, u32)], wanted: &str| {
            table.iter().find(|(name, _)| *name == wanted).map(|(_, number)| *number)
        };
        for name in names {
            numbers.native.extend(find(NUMBERS, name));
            numbers.compat.extend(find(COMPAT, name));
        }
        numbers
    }
}

/// What becomes of some calls, if all arguments are as they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) numbers: Numbers,
    pub(super) arguments: Vec<Argument>,
    pub(super) action: Action,
}

/// A profile for this machine's architecture. Of several rules for a call, the first that holds counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) otherwise: Action,
    pub(super) rules: Vec<Rule>,
    /// Whether 32-bit programs run by the same rules. Otherwise they find that there are no calls.
    pub(super) compat: bool,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(super) flags: u64,
}

/// What of a profile cannot be honoured.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProfileError(String);

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the profile cannot be used: {}", self.0)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Text {
    default_action: String,
    default_errno_ret: Option<u16>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default, rename = "archMap")]
    arch_map: Vec<ArchMap>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Calls>,
    listener_path: Option<String>,
    #[serde(rename = "listenerMetadata")]
    _listener_metadata: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Calls {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Arg>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Conditions,
    #[serde(default)]
    excludes: Conditions,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arg {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Docker's: whom a rule is for.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Conditions {
    caps: Vec<String>,
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// Reads a profile for a container with these capabilities.
pub(super) fn parse(text: &str, capabilities: Set) -> Result<Profile, ProfileError> {
    if text.len() > MOST_BYTES {
        return Err(ProfileError(format!("it has more than {MOST_BYTES} bytes")));
    }
    let text: Text = serde_json::from_str(text).map_err(|e| ProfileError(e.to_string()))?;
    if text.listener_path.is_some() {
        return Err(ProfileError("listenerPath is not supported".into()));
    }
    let native =
        if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" };
    let maps = text.arch_map.iter().map(|map| &map.architecture);
    let named: Vec<&String> = text.architectures.iter().chain(maps).collect();
    if !named.is_empty() && !named.iter().any(|name| *name == native) {
        return Err(ProfileError(format!("architectures does not name this node's, {native}")));
    }
    let otherwise = action(&text.default_action, text.default_errno_ret)?;
    let mut rules = Vec::new();
    for calls in text.syscalls {
        if !calls.includes.hold(capabilities, true)? || calls.excludes.hold(capabilities, false)? {
            continue;
        }
        let names = calls.names.iter().chain(&calls.name);
        let numbers = Numbers::of(names.map(String::as_str));
        let arguments = calls.args.iter().flatten().map(argument).collect::<Result<Vec<_>, _>>()?;
        let action = action(&calls.action, calls.errno_ret.or(text.default_errno_ret))?;
        // As libseccomp has it, arguments named twice are alternatives.
        let twice = arguments.iter().enumerate().any(|(n, a): (usize, &Argument)| {
            arguments[..n].iter().any(|other| other.index == a.index)
        });
        if twice {
            for argument in arguments {
                rules.push(Rule { numbers: numbers.clone(), arguments: vec![argument], action });
            }
        } else {
            rules.push(Rule { numbers, arguments, action });
        }
    }
    let flags = text.flags.iter().try_fold(0, |all, name| Ok(all | flag(name)?))?;
    let below = text.arch_map.iter().flat_map(|map| &map.sub_architectures);
    let compat = text.architectures.iter().chain(below).any(|name| name == "SCMP_ARCH_X86");
    Ok(Profile { otherwise, rules, compat, flags })
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, ProfileError> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::ALLOW,
        "SCMP_ACT_ERRNO" => Action::errno(errno.map_or(libc::EPERM, i32::from)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action(libc::SECCOMP_RET_KILL_THREAD),
        "SCMP_ACT_KILL_PROCESS" => Action(libc::SECCOMP_RET_KILL_PROCESS),
        "SCMP_ACT_TRAP" => Action(libc::SECCOMP_RET_TRAP),
        "SCMP_ACT_LOG" => Action(libc::SECCOMP_RET_LOG),
        "SCMP_ACT_TRACE" => {
            let data = u32::from(errno.unwrap_or(libc::EPERM as u16));
            Action(libc::SECCOMP_RET_TRACE | data)
        }
        other => return Err(ProfileError(format!("action {other} is not supported"))),
    })
}

fn argument(arg: &Arg) -> Result<Argument, ProfileError> {
    let (compare, value) = match arg.op.as_str() {
        "SCMP_CMP_EQ" => (Compare::Equal, arg.value),
        "SCMP_CMP_NE" => (Compare::NotEqual, arg.value),
        "SCMP_CMP_LT" => (Compare::Less, arg.value),
        "SCMP_CMP_LE" => (Compare::LessOrEqual, arg.value),
        "SCMP_CMP_GT" => (Compare::Greater, arg.value),
        "SCMP_CMP_GE" => (Compare::GreaterOrEqual, arg.value),
        "SCMP_CMP_MASKED_EQ" => (Compare::Masked(arg.value), arg.value_two),
        other => return Err(ProfileError(format!("comparison {other} is not known"))),
    };
    if arg.index > 5 {
        return Err(ProfileError(format!("argument {} is none of 0 to 5", arg.index)));
    }
    Ok(Argument { index: arg.index, compare, value })
}

fn flag(name: &str) -> Result<u64, ProfileError> {
    match name {
        // One thread installs the filter, before there are others.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(0),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(libc::SECCOMP_FILTER_FLAG_LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        other => Err(ProfileError(format!("flag {other} is not supported"))),
    }
}

impl Conditions {
    /// Whether a container and this machine are as they say; `otherwise`, where nothing is said.
    fn hold(&self, capabilities: Set, otherwise: bool) -> Result<bool, ProfileError> {
        let mut all = Vec::new();
        if !self.caps.is_empty() {
            all.push(if otherwise {
                self.caps.iter().all(|name| capabilities.has(name))
            } else {
                self.caps.iter().any(|name| capabilities.has(name))
            });
        }
        if !self.arches.is_empty() {
            let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
            all.push(self.arches.iter().any(|name| name == own));
        }
        if let Some(least) = &self.min_kernel {
            all.push(kernel()? >= version(least)?);
        }
        Ok(match (all.is_empty(), otherwise) {
            (true, _) => otherwise,
            (false, true) => all.iter().all(|holds| *holds),
            (false, false) => all.iter().any(|holds| *holds),
        })
    }
}

fn kernel() -> Result<(u32, u32), ProfileError> {
    let name = nix::sys::utsname::uname().map_err(|e| ProfileError(e.to_string()))?;
    version(&name.release().to_string_lossy())
}

fn version(text: &str) -> Result<(u32, u32), ProfileError> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(ProfileError(format!("minKernel {text} is no version"))),
    }
}

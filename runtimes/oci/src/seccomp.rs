//! System call filters: profiles, compiled to what the kernel runs.
//!
//! libcontainer leaves filters to a C library or, without it, leaves them out without a word. So they are compiled here,
//! before a container is made, and installed by the container's own process right before its program.

mod compile;
mod numbers;
mod profile;
mod usual;

use std::io;

use coracle_sandbox::{Problem, ProblemCode, Seccomp};

use crate::capabilities::Set;

/// A filter, ready to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    program: Vec<libc::sock_filter>,
    flags: u64,
}

/// The filter that a container asks for. None: all calls are allowed.
pub(crate) fn filter(wanted: &Seccomp, capabilities: Set) -> Result<Option<Filter>, Problem> {
    let refuse = |why: String| {
        let message = format!("securityContext.seccompProfile: {why}");
        Err(Problem::new(ProblemCode::InvalidSpec, message))
    };
    let profile = match wanted {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::RuntimeDefault => usual::profile(capabilities),
        Seccomp::Localhost { profile } => match profile::parse(profile, capabilities) {
            Ok(profile) => profile,
            Err(error) => return refuse(error.to_string()),
        },
    };
    match compile::compile(&profile) {
        Ok(program) => Ok(Some(Filter { program, flags: profile.flags })),
        Err(error) => refuse(error.to_string()),
    }
}

impl Filter {
    /// Puts it in force for this process and what it starts, for good. Needs `CAP_SYS_ADMIN` or no_new_privs.
    pub(crate) fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: self.program.len().try_into().map_err(io::Error::other)?,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: the kernel copies the program, which it does not change.
        let done = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, self.flags, &program)
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;

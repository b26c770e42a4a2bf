//! The last steps of a container's process, within all that contains it: its folder, its filter, its program.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use coracle_sandbox::{Problem, ProblemCode};
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use nix::fcntl::OFlag;

use crate::capabilities::Set;
use crate::seccomp::Filter;

/// Exit codes that shells give what cannot be executed, and what is not there.
pub(super) const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// What libcontainer is to run where it would call `execvp`.
#[derive(Clone)]
pub(super) struct Program {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) folder: PathBuf,
    pub(super) filter: Option<Filter>,
    /// What is kept of the rights that installing the filter takes; none: they are right already.
    pub(super) keep: Option<Set>,
    /// What the message of a failure begins with.
    pub(super) words: &'static str,
    /// Where failures are told; closed by success.
    pub(super) told: RawFd,
    /// Says one byte once the program may run; none: it may at once.
    pub(super) gate: Option<RawFd>,
}

/// The other end of [`Program::told`].
pub(super) struct Told {
    read: OwnedFd,
    write: OwnedFd,
}

impl Told {
    pub(super) fn new() -> io::Result<Told> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        Ok(Told { read, write })
    }

    pub(super) fn number(&self) -> RawFd {
        self.write.as_raw_fd()
    }

    /// The failure, if there was one; waits until the program runs or its process is gone.
    pub(super) fn failure(self) -> Option<Problem> {
        drop(self.write);
        // A message is written at once, and is shorter than what a pipe holds.
        let mut text = vec![0; 64 << 10];
        let count = File::from(self.read).read(&mut text).ok()?;
        // Others may have told of the same failure again.
        serde_json::Deserializer::from_slice(&text[..count]).into_iter().next()?.ok()
    }
}

impl Program {
    /// Tells of a failure; the message.
    pub(super) fn fail(&self, exit_code: i32, message: &str) -> String {
        let message = format!("{}: {message}", self.words);
        let problem = Problem {
            exit_code: Some(exit_code),
            ..Problem::new(ProblemCode::StartFailed, message.clone())
        };
        self.tell(&problem);
        message
    }

    /// Tells of a failure of this process's.
    pub(super) fn tell(&self, problem: &Problem) {
        // SAFETY: the descriptor was inherited and nobody else in this process uses it.
        let mut told = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(self.told) });
        let _ = told.write_all(&serde_json::to_vec(problem).unwrap_or_default());
    }

    /// Waits until the program may run.
    fn wait(&self) -> io::Result<()> {
        let Some(gate) = self.gate else { return Ok(()) };
        // SAFETY: as above.
        let mut gate = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(gate) });
        gate.read_exact(&mut [0])
    }

    /// The file to execute, as `execvp` would find it; what is in the way is told in the words of OCI runtimes.
    fn find(&self) -> Result<PathBuf, (i32, String)> {
        let name = self.args.first().map_or("", String::as_str);
        let quoted = format!("exec: {name:?}");
        if name.contains('/') {
            return match is_program(Path::new(name)) {
                Ok(()) => Ok(name.into()),
                Err(error) if error.raw_os_error() == Some(libc::EISDIR) => {
                    Err((NOT_EXECUTABLE, format!("{quoted}: is a directory")))
                }
                Err(error) => {
                    let (code, words) = words(&error);
                    let stat =
                        if code == NOT_FOUND { format!(" stat {name}:") } else { String::new() };
                    Err((code, format!("{quoted}:{stat} {words}")))
                }
            };
        }
        let paths = self.env.iter().find_map(|entry| entry.strip_prefix("PATH="));
        let mut denied = false;
        for folder in paths.unwrap_or(crate::spec::PATH).split(':') {
            let file = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
            match is_program(&file) {
                Ok(()) if !name.is_empty() => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => denied = true,
                _ => {}
            }
        }
        if denied {
            return Err((NOT_EXECUTABLE, format!("{quoted}: permission denied")));
        }
        Err((NOT_FOUND, format!("{quoted}: executable file not found in $PATH")))
    }

    fn enter_folder(&self) -> Result<(), String> {
        let said = |error: io::Error| {
            format!(
                "chdir to cwd ({:?}) set in config.json failed: {}",
                self.folder,
                words(&error).1
            )
        };
        if let Err(error) = std::env::set_current_dir(&self.folder) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(said(error));
            }
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o755).create(&self.folder).map_err(said)?;
            std::env::set_current_dir(&self.folder).map_err(said)?;
        }
        // A folder of the machine that was reached through a descriptor has no path in here (CVE-2024-21626).
        match std::env::current_dir() {
            Ok(folder) if folder.is_absolute() => Ok(()),
            _ => Err(format!("cwd {:?} is outside of the container", self.folder)),
        }
    }
}

/// An error in Go's words, which are those that people know, and the exit code.
fn words(error: &io::Error) -> (i32, String) {
    match error.raw_os_error() {
        Some(libc::ENOENT) => (NOT_FOUND, "no such file or directory".into()),
        Some(libc::ENOTDIR) => (NOT_FOUND, "not a directory".into()),
        Some(libc::EACCES) => (NOT_EXECUTABLE, "permission denied".into()),
        Some(libc::ENOEXEC) => (NOT_EXECUTABLE, "exec format error".into()),
        _ => (NOT_EXECUTABLE, error.to_string()),
    }
}

fn is_program(path: &Path) -> io::Result<()> {
    let found = std::fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(())
}

impl Executor for Program {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        let failed = |code, message: String| {
            ExecutorValidationError::ArgValidationError(self.fail(code, &message))
        };
        self.enter_folder().map_err(|message| failed(NOT_EXECUTABLE, message))?;
        self.find().map_err(|(code, message)| failed(code, message))?;
        Ok(())
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // Given to the program below, in order.
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let failed = |code, message: String| ExecutorError::Other(self.fail(code, &message));
        self.wait().map_err(|_| failed(NOT_EXECUTABLE, "its launcher is gone".into()))?;
        let path = self.find().map_err(|(code, message)| failed(code, message))?;
        let strings = |all: &[String]| {
            all.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, _>>()
        };
        let nul = |_| failed(NOT_EXECUTABLE, "an argument or a variable has a NUL in it".into());
        let args = strings(&self.args).map_err(nul)?;
        let env = strings(&self.env).map_err(nul)?;
        let file = CString::new(path.as_os_str().as_encoded_bytes()).map_err(nul)?;
        if let Some(filter) = &self.filter {
            filter.install().map_err(|error| {
                failed(
                    NOT_EXECUTABLE,
                    format!("the seccomp profile cannot be put in force: {error}"),
                )
            })?;
        }
        if let Some(set) = self.keep {
            set.keep_only().map_err(|error| {
                failed(NOT_EXECUTABLE, format!("capabilities cannot be given up: {error}"))
            })?;
        }
        let Err(error) = nix::unistd::execve(&file, &args, &env);
        let (code, words) = words(&error.into());
        Err(failed(code, format!("exec {}: {words}", path.display())))
    }
}

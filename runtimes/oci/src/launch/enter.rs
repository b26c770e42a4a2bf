//! Starting a further process in a container that runs.

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;

use coracle_sandbox::Problem;

use super::console::Console;
use super::create::{Rights, failed, take_terminal};
use super::program::{Program, Told};
use super::{Started, Streams, Subject, give, internal};
use crate::spec;
use crate::user::User;

const WORDS: &str = "OCI runtime exec failed: exec failed: unable to start container process";

/// Starts it, with the container's user, rights and environment.
pub(super) fn enter(
    subject: &Subject<'_>,
    args: &[String],
    tty: bool,
    user: &User,
    number: u64,
    streams: Streams,
) -> Result<Started, Problem> {
    // libcontainer leaves sockets with random names beside the state that it reads: it gets a copy.
    let id = subject.id();
    let own = subject.folder.join(format!("exec-{number}"));
    let state = own.join(&id);
    let prepare = || {
        std::fs::create_dir_all(&state)?;
        let from = subject.folder.join("run").join(&id).join("state.json");
        std::fs::copy(from, state.join("state.json"))
    };
    prepare().map_err(|e| internal("cannot copy the container's state", e))?;
    let result = enter_with(subject, args, tty, user, &own, streams);
    let _ = std::fs::remove_dir_all(&own);
    result
}

fn enter_with(
    subject: &Subject<'_>,
    args: &[String],
    tty: bool,
    user: &User,
    own: &std::path::Path,
    streams: Streams,
) -> Result<Started, Problem> {
    let rights = Rights::of(subject)?;
    let known = rights.known(subject, user);
    let process = own.join("process.json");
    let text = spec::process(&known, args, tty).to_string();
    std::fs::write(&process, text).map_err(|e| internal("cannot write the process", e))?;
    let told = Told::new().map_err(|e| internal("cannot make a pipe", e))?;
    let program = Program {
        args: args.to_vec(),
        env: spec::environment(&known, tty),
        folder: subject.container.working_dir.clone().unwrap_or_else(|| "/".into()),
        filter: rights.filter,
        keep: rights.keep,
        words: WORDS,
        told: told.number(),
    };
    let console = match tty {
        true => Some(
            Console::listen(own, "console.sock")
                .map_err(|e| internal("cannot wait for the terminal", e))?,
        ),
        false => None,
    };
    let build = || {
        let mut builder = ContainerBuilder::new(subject.id(), SyscallType::default())
            .with_root_path(own)?
            .with_executor(program)
            .with_console_socket(console.as_ref().map(Console::path));
        for stream in [&streams.stdin, &streams.stdout, &streams.stderr] {
            give(stream.as_ref(), subject, user);
        }
        if let Some(stdin) = streams.stdin {
            builder = builder.with_stdin(stdin);
        }
        if let Some(stdout) = streams.stdout {
            builder = builder.with_stdout(stdout);
        }
        if let Some(stderr) = streams.stderr {
            builder = builder.with_stderr(stderr);
        }
        builder.validate_id()?.as_tenant().with_detach(true).with_process(Some(&process)).build()
    };
    let pid = match build() {
        Ok(pid) => pid.as_raw(),
        Err(error) => {
            let problem = told.failure_by_now().unwrap_or_else(|| {
                let problem = failed(&error);
                Problem {
                    message: problem.message.replace("create failed", "exec failed"),
                    ..problem
                }
            });
            return Err(problem);
        }
    };
    if let Some(problem) = told.failure() {
        return Err(problem);
    }
    let terminal = match &console {
        Some(console) => Some(take_terminal(console.receive(), subject, pid, user)?),
        None => None,
    };
    Ok(Started { pid, user: user.clone(), terminal })
}

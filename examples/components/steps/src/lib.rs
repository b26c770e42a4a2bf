//! What the commands here share: a list of steps, given as options and followed in order.
//!
//! ```text
//! --lines N     print N numbered lines
//! --read PATH   print a file of a mounted volume
//! --write PATH=TEXT  write a file of a mounted volume, or the Pod's termination message
//! --sleep S     wait for S seconds, using no CPU
//! --exit N      end with exit code N
//! ```
//! A command may have steps of its own besides. Other arguments are only printed.

pub mod files;

use std::io::Write;
use std::time::Duration;

use wasip2::cli::{environment, exit, stderr, stdout};
use wasip2::clocks::monotonic_clock;

/// An option, and what is done with its value.
pub type Step = (&'static str, fn(&str) -> Result<(), String>);

const COMMON: [Step; 5] = [
    ("--lines", |value| (1..=number(value)?).try_for_each(|n| print(&format!("line {n}")))),
    ("--read", |path| print(&files::read(path)?)),
    ("--write", |value| {
        let (path, text) = value.split_once('=').ok_or("--write takes PATH=TEXT")?;
        files::write(path, text.as_bytes())
    }),
    ("--sleep", |value| {
        sleep(Duration::from_secs(number(value)?));
        Ok(())
    }),
    ("--exit", |value| {
        exit::exit_with_code(number(value)?.try_into().map_err(|_| "--exit takes 0 to 255")?);
        Ok(())
    }),
];

/// What a component does that exports `wasi:cli/run`: greets, prints its environment, and follows
/// its steps. What goes wrong is told on standard error, by the command's `name`.
pub fn run(name: &str, own: &[Step]) -> Result<(), ()> {
    follow(own).map_err(|message| {
        let _ = writeln!(stderr::get_stderr(), "{name}: {message}");
    })
}

fn follow(own: &[Step]) -> Result<(), String> {
    let arguments = environment::get_arguments();
    print(&format!("Hello from Coracle. Arguments: {arguments:?}"))?;
    for (name, value) in environment::get_environment() {
        print(&format!("{name}={value}"))?;
    }
    let mut arguments = arguments.iter().skip(1);
    while let Some(option) = arguments.next() {
        let step = COMMON.iter().chain(own).find(|(name, _)| name == option);
        let Some((_, act)) = step else { continue };
        let value = arguments.next().ok_or(format!("{option} needs a value"))?;
        act(value).map_err(|error| match error.starts_with(['/', '-']) {
            true => error,
            false => format!("{option} {value}: {error}"),
        })?;
    }
    Ok(())
}

/// The number that an option takes.
pub fn number(value: &str) -> Result<u64, String> {
    value.parse().map_err(|error| format!("{error}"))
}

/// Prints a line; it has left when this returns.
pub fn print(line: &str) -> Result<(), String> {
    let mut stdout = stdout::get_stdout();
    stdout.write_all(format!("{line}\n").as_bytes()).map_err(|e| format!("stdout: {e}"))?;
    stdout.blocking_flush().map_err(|e| format!("stdout: {e}"))
}

/// Waits, using no CPU.
pub fn sleep(time: Duration) {
    let nanoseconds = time.as_nanos().try_into().unwrap_or(u64::MAX);
    monotonic_clock::subscribe_duration(nanoseconds).block();
}

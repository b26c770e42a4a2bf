//! A command as a Wasm component: what a Pod's `args`, `env`, logs and exit code look like from
//! inside. It exports `wasi:cli/run`; the node runs it once per container start.
//!
//! ```text
//! --lines N     print N numbered lines
//! --read PATH   print a file of a mounted volume
//! --write PATH=TEXT  write a file in a mounted volume, or the Pod's termination message
//! --sleep S     wait for S seconds, using no CPU
//! --tick MS     wake every MS milliseconds, for ever
//! --exit N      end with exit code N
//! ```
//! Options are followed in order; other arguments are only printed.

use std::io::{Read, Write};

use wasip2::cli::{environment, exit, stderr, stdout};
use wasip2::clocks::monotonic_clock;
use wasip2::exports::cli::run::Guest;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};

struct Hello;

wasip2::cli::command::export!(Hello);

impl Guest for Hello {
    fn run() -> Result<(), ()> {
        run().map_err(|message| {
            let _ = writeln!(stderr::get_stderr(), "hello-command: {message}");
        })
    }
}

fn run() -> Result<(), String> {
    let arguments = environment::get_arguments();
    print(&format!("Hello from Coracle. Arguments: {arguments:?}"))?;
    for (name, value) in environment::get_environment() {
        print(&format!("{name}={value}"))?;
    }

    let mut arguments = arguments.iter().skip(1);
    while let Some(option) = arguments.next() {
        if !matches!(&option[..], "--lines" | "--read" | "--write" | "--sleep" | "--tick" | "--exit") {
            continue;
        }
        let value = arguments.next().ok_or(format!("{option} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{option} {value}: {e}"));
        match &option[..] {
            "--lines" => (1..=number()?).try_for_each(|n| print(&format!("line {n}")))?,
            "--read" => print(&read(value)?)?,
            "--write" => write(value.split_once('=').ok_or("--write takes PATH=TEXT")?)?,
            "--sleep" => monotonic_clock::subscribe_duration(number()? * 1_000_000_000).block(),
            "--tick" => {
                let period = number()? * 1_000_000;
                loop {
                    monotonic_clock::subscribe_duration(period).block();
                }
            }
            _ => exit::exit_with_code(number()?.try_into().map_err(|_| "--exit takes 0 to 255")?),
        }
    }
    Ok(())
}

fn print(line: &str) -> Result<(), String> {
    let mut stdout = stdout::get_stdout();
    stdout.write_all(format!("{line}\n").as_bytes()).map_err(|e| format!("stdout: {e}"))?;
    stdout.blocking_flush().map_err(|e| format!("stdout: {e}"))
}

/// The innermost mounted directory that holds a path, and the path from there.
fn locate(path: &str) -> Result<(Descriptor, String), String> {
    get_directories()
        .into_iter()
        .filter_map(|(directory, mount)| {
            let name = path.strip_prefix(mount.trim_end_matches('/'))?.strip_prefix('/')?;
            Some((directory, name.to_string()))
        })
        .min_by_key(|(_, name)| name.len())
        .ok_or(format!("{path}: no volume is mounted there"))
}

fn read(path: &str) -> Result<String, String> {
    let (directory, name) = locate(path)?;
    let file = directory
        .open_at(PathFlags::SYMLINK_FOLLOW, &name, OpenFlags::empty(), DescriptorFlags::READ)
        .map_err(|error| format!("{path}: {}", error.message()))?;
    let mut stream =
        file.read_via_stream(0).map_err(|error| format!("{path}: {}", error.message()))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| format!("{path}: {error}"))?;
    Ok(text)
}

fn write((path, text): (&str, &str)) -> Result<(), String> {
    let (directory, name) = locate(path)?;
    let create = OpenFlags::CREATE | OpenFlags::TRUNCATE;
    let file = directory
        .open_at(PathFlags::SYMLINK_FOLLOW, &name, create, DescriptorFlags::WRITE)
        .map_err(|error| format!("{path}: {}", error.message()))?;
    let mut stream =
        file.write_via_stream(0).map_err(|error| format!("{path}: {}", error.message()))?;
    stream.write_all(text.as_bytes()).map_err(|error| format!("{path}: {error}"))?;
    stream.blocking_flush().map_err(|error| format!("{path}: {error}"))
}

//! A test fixture: hello-command with more to do with the files that a Pod mounts. It exports
//! `wasi:cli/run`.
//!
//! ```text
//! --lines N     print N numbered lines
//! --read PATH   print a file of a mounted volume
//! --follow PATH print it again whenever it changes, for ever
//! --list PATH   print the names in a folder of a mounted volume
//! --write PATH=TEXT  write a file of a mounted volume
//! --fill PATH=N write N KiB to a file of a mounted volume
//! --sleep S     wait for S seconds, using no CPU
//! --exit N      end with exit code N
//! ```
//! Options are followed in order; other arguments are only printed.

use std::io::{Read, Write};

use wasip2::cli::{environment, exit, stderr, stdout};
use wasip2::clocks::monotonic_clock;
use wasip2::exports::cli::run::Guest;
use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};

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
        const OPTIONS: [&str; 8] =
            ["--lines", "--read", "--follow", "--list", "--write", "--fill", "--sleep", "--exit"];
        if !OPTIONS.contains(&&option[..]) {
            continue;
        }
        let value = arguments.next().ok_or(format!("{option} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{option} {value}: {e}"));
        match &option[..] {
            "--lines" => (1..=number()?).try_for_each(|n| print(&format!("line {n}")))?,
            "--read" => print(&read(value)?)?,
            "--follow" => follow(value)?,
            "--list" => print(&list(value)?.join(" "))?,
            "--write" | "--fill" => {
                let (path, what) = value.split_once('=').ok_or(format!("{option} PATH=…"))?;
                let bytes = match &option[..] {
                    "--fill" => vec![b'x'; what.parse::<usize>().map_err(|e| e.to_string())? << 10],
                    _ => what.as_bytes().to_vec(),
                };
                write(path, &bytes)?;
                print(&format!("wrote {path}"))?;
            }
            "--sleep" => monotonic_clock::subscribe_duration(number()? * 1_000_000_000).block(),
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

/// The innermost directory that the Pod mounts above a path, and the path's rest.
fn mounted(path: &str) -> Result<(Descriptor, String), String> {
    let below = |mount: &str| {
        let rest = path.strip_prefix(mount.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_start_matches('/').to_string())
    };
    let mounts = get_directories().into_iter();
    let mounts = mounts.filter_map(|(directory, mount)| Some((directory, below(&mount)?)));
    mounts
        .min_by_key(|(_, rest)| rest.len())
        .ok_or_else(|| format!("{path}: no volume is mounted there"))
}

fn open(path: &str, how: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, String> {
    let (directory, rest) = mounted(path)?;
    let rest = if rest.is_empty() { "." } else { &rest };
    directory
        .open_at(PathFlags::SYMLINK_FOLLOW, rest, how, flags)
        .map_err(|error| format!("{path}: {}", error.message()))
}

fn read(path: &str) -> Result<String, String> {
    let file = open(path, OpenFlags::empty(), DescriptorFlags::READ)?;
    let mut stream =
        file.read_via_stream(0).map_err(|error| format!("{path}: {}", error.message()))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| format!("{path}: {error}"))?;
    Ok(text)
}

fn follow(path: &str) -> Result<(), String> {
    let mut known = None;
    loop {
        let text = read(path)?;
        if known.as_ref() != Some(&text) {
            print(&text)?;
            known = Some(text);
        }
        monotonic_clock::subscribe_duration(100_000_000).block();
    }
}

fn list(path: &str) -> Result<Vec<String>, String> {
    let fail = |error: ErrorCode| format!("{path}: {}", error.message());
    let folder = open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ)?;
    let entries = folder.read_directory().map_err(fail)?;
    let mut names = Vec::new();
    while let Some(entry) = entries.read_directory_entry().map_err(fail)? {
        names.push(entry.name);
    }
    names.sort();
    Ok(names)
}

fn write(path: &str, bytes: &[u8]) -> Result<(), String> {
    let how = OpenFlags::CREATE | OpenFlags::TRUNCATE;
    let file = open(path, how, DescriptorFlags::WRITE)?;
    let mut stream =
        file.write_via_stream(0).map_err(|error| format!("{path}: {}", error.message()))?;
    stream.write_all(bytes).map_err(|error| format!("{path}: {error}"))?;
    stream.blocking_flush().map_err(|error| format!("{path}: {error}"))
}

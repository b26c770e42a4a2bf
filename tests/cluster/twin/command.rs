//! `hello-command`, with the steps of `probe-files`.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use crate::{print, signals};

pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    signals::end_at_once();
    print(&format!("Hello from Coracle. Arguments: {arguments:?}"))?;
    for (name, value) in std::env::vars() {
        print(&format!("{name}={value}"))?;
    }
    let mut arguments = arguments.iter().skip(1);
    while let Some(option) = arguments.next() {
        let Some(act) = step(option) else { continue };
        let value = arguments.next().ok_or(format!("{option} needs a value"))?;
        act(value).map_err(|error| match error.starts_with('/') {
            true => error,
            false => format!("{option} {value}: {error}"),
        })?;
    }
    Ok(())
}

type Step = fn(&str) -> Result<(), String>;

fn step(option: &str) -> Option<Step> {
    Some(match option {
        "--lines" => |value| (1..=number(value)?).try_for_each(|n| print(&format!("line {n}"))),
        "--read" => |path| print(&read(path)?),
        "--write" => |value| {
            let (path, text) = value.split_once('=').ok_or("it takes PATH=TEXT")?;
            write(path, text.as_bytes())
        },
        "--sleep" => |value| {
            sleep(Duration::from_secs(number(value)?));
            Ok(())
        },
        "--exit" => |value| std::process::exit(number(value)? as i32),
        "--tick" => |value| {
            let period = Duration::from_millis(number(value)?);
            loop {
                sleep(period);
            }
        },
        "--follow" => follow,
        "--list" => |path| {
            let entries = fs::read_dir(path).map_err(|e| format!("{path}: {e}"))?;
            let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
            let mut names: Vec<String> = names.collect();
            names.sort();
            print(&names.join(" "))
        },
        "--fill" => |value| {
            let (path, kibibytes) = value.split_once('=').ok_or("it takes PATH=KIBIBYTES")?;
            write(path, &vec![b'x'; (number(kibibytes)? as usize) << 10])
        },
        _ => return None,
    })
}

fn number(value: &str) -> Result<u64, String> {
    value.parse().map_err(|error| format!("{error}"))
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

fn write(path: &str, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{path}: {error}"))
}

fn follow(path: &str) -> Result<(), String> {
    let mut known = None;
    loop {
        let text = read(path)?;
        if known.as_ref() != Some(&text) {
            print(&text)?;
            known = Some(text);
        }
        sleep(Duration::from_millis(100));
    }
}

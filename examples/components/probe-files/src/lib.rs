//! A test fixture: hello-command with more to do with the files that a Pod mounts. It exports
//! `wasi:cli/run`.
//!
//! ```text
//! --follow PATH print a file again whenever it changes, for ever
//! --list PATH   print the names in a folder of a mounted volume
//! --fill PATH=N write N KiB to a file of a mounted volume
//! ```
//! The other steps are those of `../steps`.

use std::time::Duration;

use steps::{Step, files, print, sleep};
use wasip2::exports::cli::run::Guest;

struct Probe;

wasip2::cli::command::export!(Probe);

impl Guest for Probe {
    fn run() -> Result<(), ()> {
        steps::run("hello-command", &STEPS)
    }
}

const STEPS: [Step; 3] = [
    ("--follow", follow),
    ("--list", |path| print(&files::list(path)?.join(" "))),
    ("--fill", |value| {
        let (path, kibibytes) = value.split_once('=').ok_or("--fill takes PATH=KIBIBYTES")?;
        let kibibytes: usize = kibibytes.parse().map_err(|error| format!("{error}"))?;
        files::write(path, &vec![b'x'; kibibytes << 10])
    }),
];

fn follow(path: &str) -> Result<(), String> {
    let mut known = None;
    loop {
        let text = files::read(path)?;
        if known.as_ref() != Some(&text) {
            print(&text)?;
            known = Some(text);
        }
        sleep(Duration::from_millis(100));
    }
}

//! Client libraries of other languages, for programs that use them against a cluster.
//!
//! They come from npm and PyPI at a version that is written here, into the folder that guests are kept in too, where node, or
//! Python, is there to use them; otherwise they are [`Missing`].

use std::fs;
use std::process::Command;

use crate::containers::Missing;
use crate::guests::{kept, named, run};
use crate::tools::repository;

/// A language with an official client library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `kubernetes`, of PyPI.
    Python,
    /// `@kubernetes/client-node`, of npm.
    JavaScript,
}

impl Language {
    /// The library, version included.
    fn package(self) -> &'static str {
        match self {
            Language::Python => "kubernetes==37.0.2",
            // The last one for node 18 and 20.
            Language::JavaScript => "@kubernetes/client-node@1.4.0",
        }
    }

    /// A command that runs the program of this language in `tests/suite/clients`; the library is installed, if it was not yet.
    /// Takes half a minute the first time.
    ///
    /// # Errors
    /// [`Missing`] where the library cannot be had.
    pub fn program(self) -> anyhow::Result<Command> {
        let folder = kept(&named(&format!("library-{self:?}"), &self.package()), |_, work| {
            let made = work.join("made");
            fs::create_dir(&made)?;
            let mut install = match self {
                Language::Python => Command::new("python3"),
                Language::JavaScript => Command::new("npm"),
            };
            match self {
                Language::Python => install.args(["-m", "pip", "install", "--quiet", "--target"]),
                Language::JavaScript => {
                    install.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
                }
            };
            run(install.arg(&made).arg(self.package())).map_err(|error| {
                let why = format!("{}, which could not be installed: {error:#}", self.package());
                Missing(why)
            })?;
            Ok(made)
        })?;
        let programs = repository("tests/suite/clients");
        Ok(match self {
            Language::Python => {
                let mut python = Command::new("python3");
                python.env("PYTHONPATH", folder).env("PYTHONDONTWRITEBYTECODE", "1");
                python.arg(programs.join("client.py"));
                python
            }
            Language::JavaScript => {
                // Packages are looked for beside the program.
                let program = folder.join("client.mjs");
                fs::copy(programs.join("client.mjs"), &program)?;
                let mut node = Command::new("node");
                node.arg(program);
                node
            }
        })
    }
}

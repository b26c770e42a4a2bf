//! `coracle token`: what lets machines join.

use std::path::PathBuf;

use anyhow::Context;

use crate::{folder, println};

/// What about tokens.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Print a token with which a machine can join: coracle agent --server URL --token TOKEN
    Create {
        /// Data folder of the server
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

/// Prints it.
pub fn main(command: Command) -> anyhow::Result<()> {
    let Command::Create { data } = command;
    let path = data.unwrap_or_else(folder::default).join("token");
    let token = std::fs::read_to_string(&path).with_context(|| {
        format!("cannot read {}; run this on the server, as its owner, with the server's --data", path.display())
    })?;
    println(format_args!("{}", token.trim()));
    Ok(())
}

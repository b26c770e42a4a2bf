//! A process's streams, as the event loop reads and writes them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use coracle_sandbox::stream::Size;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;

use crate::launch::Streams;

/// What one read takes.
pub(super) const READ: usize = 32 << 10;

/// One end of a pipe or a terminal. Cheap to clone; closed with the last.
#[derive(Clone, Debug)]
pub(super) struct End(Arc<AsyncFd<OwnedFd>>);

impl End {
    pub(super) fn new(fd: OwnedFd) -> io::Result<End> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(End(Arc::new(crate::readiness::watch(fd)?)))
    }

    /// Some bytes; 0 at the end. A terminal whose other end is closed by all has ended, too.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|fd| Ok(nix::unistd::read(fd, buffer)?)) {
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(done) => return done,
                Err(_would_block) => {}
            }
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|fd| Ok(nix::unistd::write(fd, bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(done) => bytes = &bytes[done?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Gives a terminal another size.
    pub(super) fn resize(&self, size: Size) {
        let size =
            libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the structure is what the call reads, and lives until it returns.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    }
}

/// This process's ends of another's streams.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) stdin: Option<End>,
    pub(super) stdout: Option<End>,
    pub(super) stderr: Option<End>,
}

/// Pipes for the streams that are wanted.
pub(super) fn pipes(stdin: bool, stdout: bool, stderr: bool) -> io::Result<(Ends, Streams)> {
    let (mut ends, mut streams) = (Ends::default(), Streams::default());
    let pipe = || nix::unistd::pipe2(OFlag::O_CLOEXEC);
    // A stream that nobody wants goes nowhere.
    let nowhere = || {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        io::Result::Ok(Some(OwnedFd::from(null)))
    };
    if stdin {
        let (read, write) = pipe()?;
        (streams.stdin, ends.stdin) = (Some(read), Some(End::new(write)?));
    } else {
        streams.stdin = nowhere()?;
    }
    if stdout {
        let (read, write) = pipe()?;
        (streams.stdout, ends.stdout) = (Some(write), Some(End::new(read)?));
    } else {
        streams.stdout = nowhere()?;
    }
    if stderr {
        let (read, write) = pipe()?;
        (streams.stderr, ends.stderr) = (Some(write), Some(End::new(read)?));
    } else {
        streams.stderr = nowhere()?;
    }
    Ok((ends, streams))
}

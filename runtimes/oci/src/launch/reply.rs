//! A launcher's result: one message on a socket of its own.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use coracle_sandbox::{Problem, ProblemCode};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::user::User;

/// Longest message; what libcontainer says of a failure is cut.
const MOST: usize = 32 << 10;
const MOST_WORDS: usize = 8 << 10;

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    /// As whom the container runs.
    pub(crate) user: User,
    /// The controlling end of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
}

#[derive(Serialize, Deserialize)]
enum Message {
    Started { pid: i32, uid: u32, gid: u32, groups: Vec<u32>, home: String },
    Failed(Problem),
}

pub(super) fn pair() -> io::Result<(Receiver, Sender)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    Ok((Receiver(ours), Sender(theirs)))
}

/// The launcher's end.
pub(super) struct Sender(OwnedFd);

impl Sender {
    pub(super) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(super) fn send(&self, result: Result<Started, Problem>) {
        let (message, terminal) = match result {
            Ok(Started { pid, user, terminal }) => {
                let User { uid, gid, groups, home } = user;
                (Message::Started { pid, uid, gid, groups, home }, terminal)
            }
            Err(mut problem) => {
                let mut end = problem.message.len().min(MOST_WORDS);
                while !problem.message.is_char_boundary(end) {
                    end -= 1;
                }
                problem.message.truncate(end);
                (Message::Failed(problem), None)
            }
        };
        let text = serde_json::to_vec(&message).unwrap_or_default();
        let fds: Vec<RawFd> = terminal.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        // A shim that is gone has nobody to tell.
        let _ =
            sendmsg::<()>(self.number(), &[IoSlice::new(&text)], rights, MsgFlags::empty(), None);
    }
}

/// The shim's end.
pub(crate) struct Receiver(OwnedFd);

impl Receiver {
    /// Waits for the result. A launcher that ends without one has failed.
    pub(crate) async fn receive(self) -> Result<Started, Problem> {
        let broken = |error: io::Error| {
            Problem::new(ProblemCode::Internal, format!("a launcher left no result: {error}"))
        };
        // The other end is another open file, and stays one that blocks.
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&self.0, nix::fcntl::FcntlArg::F_SETFL(flags))
            .map_err(|e| broken(e.into()))?;
        let socket = crate::readiness::watch(self.0).map_err(broken)?;
        loop {
            let mut ready = socket.readable().await.map_err(broken)?;
            match ready.try_io(|fd| read(fd.as_raw_fd())) {
                Ok(Ok((message, terminal))) => return understand(&message, terminal),
                Ok(Err(error)) => return Err(broken(error)),
                Err(_would_block) => {}
            }
        }
    }
}

fn read(fd: RawFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut text = vec![0; MOST];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let (count, terminal) = {
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(fd, &mut parts, Some(&mut space), flags)?;
        let mut terminal = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                // SAFETY: the kernel has just made it for us.
                terminal = fds.first().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) });
            }
        }
        (message.bytes, terminal)
    };
    if count == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended early"));
    }
    text.truncate(count);
    Ok((text, terminal))
}

fn understand(message: &[u8], terminal: Option<OwnedFd>) -> Result<Started, Problem> {
    match serde_json::from_slice(message) {
        Ok(Message::Started { pid, uid, gid, groups, home }) => {
            Ok(Started { pid, user: User { uid, gid, groups, home }, terminal })
        }
        Ok(Message::Failed(problem)) => Err(problem),
        Err(error) => Err(Problem::new(
            ProblemCode::Internal,
            format!("a launcher's result is unreadable: {error}"),
        )),
    }
}

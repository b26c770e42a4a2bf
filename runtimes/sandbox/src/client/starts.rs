//! Many Pods that start at once.
//!
//! A call costs about as much as the start of a small guest. So calls take turns, and whoever has its turn takes along all that
//! wait (up to [`MOST`]), as one call: alone nobody waits for company, and ten thousand Pods are told of in a few hundred calls.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use http::Method;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Client, ClientError, KEPT};
use crate::types::Problem;

/// Calls of a kind that are under way at once. More would not be faster, but each with a connection and memory of its own; and
/// of ten thousand Pods the first is to run before the last has its sandbox.
const TURNS: usize = KEPT / 4;
/// Starts in one call, for hosts that do such things within moments.
const MOST: usize = 32;
/// Bytes of one call, by which the largest specs go alone.
const LARGE: usize = 1 << 20;

/// Starts of one kind that wait for their turn.
pub(super) struct Starts<A> {
    waiting: Mutex<VecDeque<Waiting<A>>>,
    turns: Arc<Semaphore>,
    most: usize,
}

/// A start, and whom to tell what became of it.
pub(super) struct Waiting<A> {
    path: String,
    spec: Bytes,
    /// What is before and behind the spec where it is one of many.
    frame: (String, &'static str),
    answer: oneshot::Sender<Result<A, ClientError>>,
}

impl<A> Starts<A> {
    /// `in_batches`: many in one call.
    pub(super) fn new(in_batches: bool) -> Arc<Self> {
        let most = if in_batches { MOST } else { 1 };
        Arc::new(Starts { waiting: Mutex::default(), turns: Arc::new(Semaphore::new(TURNS)), most })
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiting<A>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who goes next.
    fn next(&self) -> Vec<Waiting<A>> {
        let mut waiting = self.waiting();
        let (mut some, mut bytes) = (Vec::new(), 0);
        while some.len() < self.most
            && let Some(start) = waiting.pop_front()
        {
            // Whoever gave up meanwhile wants nothing started.
            if start.answer.is_closed() {
                continue;
            }
            bytes += start.spec.len();
            if bytes > LARGE && !some.is_empty() {
                waiting.push_front(start);
                break;
            }
            some.push(start);
        }
        some
    }
}

impl Client {
    /// Starts something, with others if others wait.
    pub(super) async fn start<A: DeserializeOwned + Send + 'static>(
        &self,
        starts: &Starts<A>,
        path: String,
        spec: Vec<u8>,
        frame: (String, &'static str),
    ) -> Result<A, ClientError> {
        let (answer, mut answered) = oneshot::channel();
        starts.waiting().push_back(Waiting { path, spec: spec.into(), frame, answer });
        loop {
            let turn = tokio::select! {
                biased;
                answer = &mut answered => return answer.unwrap_or_else(|_| Err(self.ending())),
                turn = starts.turns.clone().acquire_owned() => turn,
            };
            let some = starts.next();
            let Ok(turn) = turn else { return Err(self.ending()) };
            if some.is_empty() {
                // Somebody else took it along.
                drop(turn);
                return answered.await.unwrap_or_else(|_| Err(self.ending()));
            }
            // Others count on it, whether or not this caller goes on.
            tokio::spawn(self.clone().send_all(some, turn));
        }
    }

    fn ending(&self) -> ClientError {
        self.interrupted("this program is ending")
    }

    async fn send_all<A: DeserializeOwned>(
        self,
        starts: Vec<Waiting<A>>,
        _turn: OwnedSemaphorePermit,
    ) {
        if starts.len() > 1
            && let Some(answers) = self.send_batch(&starts).await
        {
            for (start, answer) in starts.into_iter().zip(answers) {
                let _ = start.answer.send(answer.map_err(ClientError::Problem));
            }
            return;
        }
        // One, or a host of an older program, or something is wrong: each is told for itself.
        let each = starts.into_iter().map(async |start| {
            let answer = self.call_with(Method::PUT, &start.path, start.spec).await;
            let _ = start.answer.send(answer);
        });
        futures::future::join_all(each).await;
    }

    async fn send_batch<A: DeserializeOwned>(
        &self,
        starts: &[Waiting<A>],
    ) -> Option<Vec<Result<A, Problem>>> {
        let mut body = BytesMut::new();
        let mut separator = b'[';
        for Waiting { spec, frame: (before, behind), .. } in starts {
            body.put_u8(separator);
            body.put_slice(before.as_bytes());
            body.put_slice(spec);
            body.put_slice(behind.as_bytes());
            separator = b',';
        }
        body.put_u8(b']');
        let answers = self.call_with(Method::POST, "/v1/starts", body.freeze()).await;
        let answers: Vec<_> = answers.ok()?;
        (answers.len() == starts.len()).then_some(answers)
    }
}

use std::sync::Arc;

use crate::{ContainerState, Usage};

use super::*;

fn status(attempt: u32) -> ContainerStatus {
    ContainerStatus {
        name: "c".into(),
        attempt,
        image_digest: String::new(),
        state: ContainerState::Created,
        bound: Vec::new(),
        usage: Usage::default(),
        pid: None,
        process: None,
    }
}

fn seq(line: Option<EventLine>) -> u64 {
    match line {
        Some(EventLine::Event(event)) => event.seq,
        other => panic!("no event but {other:?}"),
    }
}

#[tokio::test]
async fn a_reader_that_returns_misses_nothing_that_is_held() {
    let events = Arc::new(Events::new("h".into()));
    for n in 0..5 {
        events.push("s", status(n));
    }
    let mut stream = events.stream(3);
    let start = stream.next().await;
    assert!(matches!(start, Some(EventLine::Start { last: 5, gap: false, .. })), "{start:?}");
    assert_eq!(seq(stream.next().await), 4);
    assert_eq!(seq(stream.next().await), 5);
    events.push("s", status(5));
    assert_eq!(seq(stream.next().await), 6);
    events.close();
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_reader_that_is_too_late_is_told() {
    let events = Arc::new(Events::new("h".into()));
    for n in 0..HELD as u32 + 10 {
        events.push("s", status(n));
    }
    for after in [2, 1 << 40] {
        let mut stream = events.stream(after);
        let start = stream.next().await;
        let last = HELD as u64 + 10;
        let expected = EventLine::Start { instance: "h".into(), last, gap: true };
        assert_eq!(start, Some(expected));
    }
    let mut stream = events.stream(10);
    assert!(matches!(stream.next().await, Some(EventLine::Start { gap: false, .. })));
    assert_eq!(seq(stream.next().await), 11);
}

use super::*;

#[test]
fn one_of_a_kind_at_a_time() {
    let notices = Notices::default();
    let start = Instant::now();
    assert_eq!(notices.due(NoticeKind::Trap, start), Some(0));
    assert_eq!(notices.due(NoticeKind::Trap, start + EVERY / 2), None);
    assert_eq!(notices.due(NoticeKind::Trap, start + EVERY / 2), None);
    assert_eq!(notices.due(NoticeKind::Limit, start + EVERY / 2), Some(0));
    assert_eq!(notices.due(NoticeKind::Trap, start + EVERY), Some(2));
    assert_eq!(notices.due(NoticeKind::Trap, start + EVERY * 2), Some(0));
}

use super::*;
use crate::signal::text::Step;

const ANNA: PeerId = PeerId(1);
const STAYS: Duration = Duration::from_secs(15);
const SOON: Instant = Instant::ZERO;

fn text(length: usize) -> Text {
    "x".repeat(length).into()
}

fn lengths(attached: &Attached) -> Vec<usize> {
    attached.missed.iter().map(|(text, _)| text.len()).collect()
}

fn at(seconds: u64) -> Instant {
    SOON + Duration::from_secs(seconds)
}

#[test]
fn who_is_away_gets_later_what_it_missed_and_who_never_was_there_gets_nothing() {
    let mut mail = Mailboxes::default();
    let berta = PeerId(2);
    let nothing = Attached { replaced: None, missed: vec![], was_told: false, left_out: 0 };
    assert_eq!(mail.attach(ANNA, SessionId(5)), nothing);
    let about = Some(About { thing: 9, step: Step::Changes });
    assert_eq!(mail.socket_or_keep(ANNA, &text(1), about), Some((SessionId(5), about)));
    assert_eq!(mail.socket_or_keep(berta, &text(1), None), None);
    let detached = [(); 2].map(|()| mail.detach(SOON, SessionId(5), STAYS));
    assert_eq!((detached, mail.peer_of(SessionId(5)), mail.away()), ([Some(ANNA), None], None, 1));
    for (length, about) in [(2, None), (3, about), (4, None), (5, about)] {
        assert_eq!(mail.socket_or_keep(ANNA, &text(length), about), None);
    }
    let attached = mail.attach(ANNA, SessionId(6));
    assert_eq!((attached.replaced, lengths(&attached), mail.kept, mail.deadline()), (None, vec![2, 4, 5], 0, None));
    let replaced = mail.attach(ANNA, SessionId(7)).replaced;
    assert_eq!(replaced, Some(SessionId(6)), "taken up while the old socket is open");
    assert_eq!((mail.peer_of(SessionId(6)), mail.peer_of(SessionId(7))), (None, Some(ANNA)));
    assert_eq!((mail.forget(ANNA), mail.sessions.len(), mail.boxes.len()), (Some(SessionId(7)), 0, 0));
}

#[test]
fn others_are_told_after_two_seconds_and_it_is_gone_after_its_time() {
    let mut mail = Mailboxes::default();
    mail.attach(ANNA, SessionId(5));
    mail.detach(SOON, SessionId(5), STAYS);
    assert_eq!((mail.deadline(), mail.overdue(at(1))), (Some(at(2)), None));
    assert_eq!((mail.overdue(at(2)), mail.overdue(at(2))), (Some(Overdue::Away(ANNA)), None));
    assert!(mail.attach(ANNA, SessionId(6)).was_told);
    mail.detach(at(2), SessionId(6), Duration::from_secs(1));
    assert_eq!(mail.overdue(at(3)), Some(Overdue::Gone(ANNA)), "too short to be told");
    mail.forget(ANNA);
    assert_eq!((mail.overdue(at(99)), mail.away()), (None, 0));
}

#[test]
fn who_is_back_is_told_after_two_seconds_unless_it_breaks_again() {
    let mut mail = Mailboxes::default();
    mail.tell_late(SOON, ANNA);
    mail.attach(ANNA, SessionId(5));
    mail.tell_late(SOON, ANNA);
    mail.tell_late(at(1), ANNA);
    assert_eq!((mail.deadline(), mail.overdue(at(2))), (Some(at(3)), None));
    assert_eq!((mail.overdue(at(3)), mail.overdue(at(3)), mail.deadline()), (Some(Overdue::Late(ANNA)), None, None));
    for ends in [
        |mail: &mut Mailboxes| _ = mail.detach(at(3), SessionId(5), Duration::from_secs(60)),
        |mail: &mut Mailboxes| _ = mail.attach(ANNA, SessionId(6)),
        |mail: &mut Mailboxes| _ = mail.forget(ANNA),
    ] {
        mail.tell_late(at(3), ANNA);
        ends(&mut mail);
        assert!(mail.late.is_empty());
    }
}

#[test]
fn whose_time_is_over_has_nothing_kept_and_is_taken_up_no_more() {
    let mut mail = Mailboxes::default();
    for peer in [1, 2, 3] {
        mail.attach(PeerId(peer), SessionId(peer));
        mail.next_token(PeerId(peer));
        mail.detach(at(peer / 3), SessionId(peer), STAYS);
    }
    (0..4).for_each(|_| _ = mail.overdue(at(15)));
    assert_eq!((mail.overdue(at(15)), mail.is_over(PeerId(2))), (Some(Overdue::Gone(ANNA)), true));
    (1..=3).for_each(|peer| _ = mail.socket_or_keep(PeerId(peer), &text(100), None));
    assert_eq!((mail.kept, mail.is_over(PeerId(3))), (100 + TEXT_OVERHEAD, false));
    let used = [2, 3].map(|peer| mail.use_token(PeerId(peer), 1, None));
    assert_eq!(used, [Err(ResumeFault::Gone), Ok(())]);
}

#[test]
fn who_counts_gets_what_its_connection_lost_and_what_it_missed() {
    let mut mail = Mailboxes::default();
    assert_eq!(mail.next_token(ANNA), None);
    mail.attach(ANNA, SessionId(5));
    let first = mail.next_token(ANNA).unwrap();
    let about = Some(About { thing: 9, step: Step::Changes });
    for length in [1, 2, 3] {
        assert_eq!(mail.socket_or_keep(ANNA, &text(length), about), Some((SessionId(5), None)), "none is left out");
    }
    mail.pinged(SOON, ANNA, Some(1)).unwrap();
    mail.detach(SOON, SessionId(5), STAYS);
    for length in [4, 5] {
        mail.socket_or_keep(ANNA, &text(length), about);
    }
    let count = |fault| Err(ResumeFault::Count(fault));
    assert_eq!(mail.use_token(ANNA, first, Some(0)), count(CountFault::NotKept));
    assert_eq!(mail.use_token(ANNA, first, Some(4)), count(CountFault::TooHigh));
    assert_eq!(mail.use_token(ANNA, first + 1, Some(2)), Err(ResumeFault::Used));
    assert_eq!(mail.use_token(ANNA, first, Some(2)), Ok(()));
    assert_eq!(lengths(&mail.attach(ANNA, SessionId(6))), [3, 5]);
    // Nothing of it arrived, the next token included.
    mail.detach(SOON, SessionId(6), STAYS);
    assert_eq!(mail.use_token(ANNA, first, Some(2)), Ok(()));
    assert_eq!(lengths(&mail.attach(ANNA, SessionId(7))), [3, 5]);
    mail.took(ANNA);
    assert_eq!(mail.use_token(ANNA, first, Some(4)), Err(ResumeFault::Used), "it had the next token");
    assert_eq!(mail.use_token(ANNA, first + 1, None), Ok(()));
    assert_eq!((mail.attach(ANNA, SessionId(8)).missed, mail.kept, mail.taken(ANNA)), (vec![], 0, 1));
}

#[test]
fn what_is_kept_is_bounded_for_each_and_for_all() {
    let mut mail = Mailboxes::default();
    let away = |mail: &mut Mailboxes, peer, text: &Text| {
        mail.attach(PeerId(peer), SessionId(peer));
        mail.detach(SOON, SessionId(peer), STAYS);
        mail.socket_or_keep(PeerId(peer), text, None);
    };
    away(&mut mail, 1, &text(AWAY_BYTES_MAX));
    assert_eq!((mail.poll_lost(), mail.kept, mail.boxes.len(), mail.due.len()), (Some(ANNA), 0, 0, 0));

    let many = 2 + (AWAY_PEERS_BYTES_MAX / AWAY_BYTES_MAX) as u64;
    let long = text(AWAY_BYTES_MAX - 2 * TEXT_OVERHEAD);
    (1..=many).for_each(|peer| away(&mut mail, peer, &long));
    let lost: Vec<_> = std::iter::from_fn(|| mail.poll_lost()).collect();
    assert!(!lost.is_empty() && mail.kept <= AWAY_PEERS_BYTES_MAX, "{lost:?}");
    assert_eq!(lost.len() + mail.boxes.len(), many as usize);
}

#[test]
fn who_is_away_stays_while_those_with_sockets_have_as_much_that_they_do_not_acknowledge() {
    let mut mail = Mailboxes::default();
    let long = text(AWAY_BYTES_MAX / 2 + 9);
    mail.attach(ANNA, SessionId(1));
    mail.detach(SOON, SessionId(1), STAYS);
    mail.socket_or_keep(ANNA, &long, None);
    for peer in 2..3 * (AWAY_PEERS_BYTES_MAX / AWAY_BYTES_MAX) as u64 {
        mail.attach(PeerId(peer), SessionId(peer));
        mail.next_token(PeerId(peer));
        mail.socket_or_keep(PeerId(peer), &long, None);
        assert!(mail.kept <= AWAY_PEERS_BYTES_MAX);
    }
    assert_eq!((mail.poll_lost(), lengths(&mail.attach(ANNA, SessionId(1)))), (None, vec![long.len()]));
}

#[test]
fn who_acknowledges_nothing_loses_its_past_and_costs_nobody_else_anything() {
    let mut mail = Mailboxes::default();
    let long = text(AWAY_BYTES_MAX / 2);
    mail.attach(ANNA, SessionId(1));
    mail.detach(SOON, SessionId(1), STAYS);
    mail.socket_or_keep(ANNA, &text(9), None);
    for peer in 2..2 * (AWAY_PEERS_BYTES_MAX / AWAY_BYTES_MAX) as u64 {
        mail.attach(PeerId(peer), SessionId(peer));
        mail.next_token(PeerId(peer));
        for _ in 0..5 {
            assert!(mail.socket_or_keep(PeerId(peer), &long, None).is_some());
        }
        assert!(mail.kept <= AWAY_PEERS_BYTES_MAX);
    }
    assert_eq!((mail.poll_lost(), lengths(&mail.attach(ANNA, SessionId(1)))), (None, vec![9]));
}

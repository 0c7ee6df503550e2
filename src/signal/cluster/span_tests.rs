use super::*;

const ME: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);
const THIRD: NodeId = NodeId(3);

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

fn page(q: u64, page: usize, of: usize, members: &[NodeId]) -> Says {
    Says::Roster(RosterPage { q, rank: 1, page, of, members: members.to_vec(), told: vec![] })
}

fn change(q: u64) -> Says {
    Says::Change { q, rank: 1, told: vec![] }
}

struct Rig {
    span: Span,
}

impl Rig {
    fn new() -> Rig {
        Rig { span: Span::new(10) }
    }

    fn come(&mut self, millis: u64) -> Vec<SpanStep> {
        let mut out = Vec::new();
        self.span.come(at(millis), true, &mut out);
        out
    }

    fn hear(&mut self, millis: u64, from: NodeId, says: Says) -> Vec<SpanStep> {
        let mut out = Vec::new();
        self.span.hear(at(millis), (from, ME), says, None, &mut out);
        out
    }

    /// What time brings up to this one, each at the time at which it is due.
    fn until(&mut self, millis: u64) -> Vec<(u64, SpanStep)> {
        let mut found = Vec::new();
        while let Some(due) = self.span.deadline().filter(|due| *due <= at(millis)) {
            let mut out = Vec::new();
            self.span.act(due, &mut out);
            found.extend(out.into_iter().map(|step| (due.since(Instant::ZERO).as_millis() as u64, step)));
        }
        found
    }

    /// A channel with one other member, both known to each other, at 1 s.
    fn shared() -> Rig {
        let mut rig = Rig::new();
        rig.come(0);
        let out = rig.hear(5, OTHER, page(4, 0, 1, &[ME]));
        assert!(out.contains(&SpanStep::Tell(SpanNews::Joined { spans: true })));
        assert_eq!(rig.until(1_000), []);
        rig
    }
}

#[test]
fn the_first_comer_asks_who_is_there_and_waits_for_all_that_are_named() {
    let mut rig = Rig::new();
    assert_eq!(rig.come(0), [SpanStep::Enter { q: 11, empty: true }]);
    assert!(rig.span.is_joining());
    let roster = |node| SpanStep::Tell(SpanNews::Roster { node, told: vec![], joining: true });
    assert_eq!(rig.hear(3, OTHER, page(4, 0, 1, &[ME, THIRD])), [roster(OTHER)]);
    assert_eq!(rig.hear(4, THIRD, page(9, 1, 2, &[ME])), []);
    let joined = SpanStep::Tell(SpanNews::Joined { spans: true });
    assert_eq!(rig.hear(5, THIRD, page(9, 0, 2, &[ME])), [roster(THIRD), joined]);
    assert_eq!((rig.span.rank(), rig.span.members().count(), rig.span.is_joining()), (2, 2, false));
    assert_eq!(rig.until(10_000), [], "nobody is asked twice");
}

#[test]
fn where_nobody_is_nobody_is_waited_for_and_the_question_comes_again() {
    let mut rig = Rig::new();
    rig.come(0);
    let mut out = Vec::new();
    rig.span.nobody(&mut out);
    assert_eq!(out, [SpanStep::Tell(SpanNews::Joined { spans: false })]);
    let again = [100, 1_100, 6_100].map(|millis| (millis, SpanStep::Enter { q: 12, empty: false }));
    assert_eq!(rig.until(60_000), again, "by a number that says: there is more than nothing");
    let mut silent = Rig::new();
    silent.come(0);
    let steps = silent.until(250);
    assert_eq!(steps.last(), Some(&(250, SpanStep::Tell(SpanNews::Joined { spans: false }))), "no answer at all");
    let mut without = Vec::new();
    let mut alone = Span::new(0);
    alone.come(at(0), false, &mut without);
    assert_eq!(without, [SpanStep::Tell(SpanNews::Joined { spans: false })], "without a bus");
}

#[test]
fn who_enters_is_known_by_it_if_it_has_told_of_nobody_and_is_asked_otherwise() {
    let mut rig = Rig::new();
    rig.come(0);
    rig.until(300);
    let steps = rig.hear(400, OTHER, Says::Enter { q: 7, empty: true });
    let roster = SpanStep::Tell(SpanNews::Roster { node: OTHER, told: vec![], joining: false });
    assert_eq!(steps, [SpanStep::Tell(SpanNews::Spans(true)), roster]);
    assert_eq!(rig.hear(401, OTHER, change(8)), [SpanStep::Tell(SpanNews::Told { node: OTHER, told: vec![] })]);
    let q = rig.span.q();
    assert_eq!(rig.hear(500, THIRD, Says::Enter { q: 3, empty: false }), [SpanStep::Sync { to: THIRD, q }]);
}

#[test]
fn a_gap_is_asked_about_until_the_roster_comes() {
    let mut rig = Rig::shared();
    let q = rig.span.q();
    let sync = SpanStep::Sync { to: OTHER, q };
    assert_eq!(rig.hear(1_000, OTHER, change(6)), [sync]);
    assert_eq!(rig.hear(1_001, OTHER, change(7)), [], "it is asked");
    let asked: Vec<u64> = rig.until(30_000).into_iter().map(|(millis, _)| millis).collect();
    assert_eq!(asked, [1_300, 2_300, 5_300, 15_300, 25_300]);
    let steps = rig.hear(30_000, OTHER, page(6, 0, 1, &[]));
    let news = |step: &SpanStep| match step {
        SpanStep::Tell(SpanNews::Roster { .. }) => "roster",
        SpanStep::Tell(SpanNews::Told { .. }) => "told",
        _ => "other",
    };
    assert_eq!(steps.iter().map(news).collect::<Vec<_>>(), ["roster", "told"]);
    assert_eq!(rig.until(60_000), []);
    assert_eq!(rig.hear(60_000, OTHER, change(7)), [], "it was known");
    assert_eq!(rig.hear(60_000, OTHER, Says::Tail { q: 9, rank: 1 }), [SpanStep::Sync { to: OTHER, q }]);
}

#[test]
fn what_is_told_is_numbered_and_the_last_number_is_told_again() {
    let mut rig = Rig::shared();
    rig.span.touched(at(1_000));
    rig.span.touched(at(1_004));
    assert_eq!(rig.until(1_005), [(1_005, SpanStep::Tell(SpanNews::Flush))]);
    let q = rig.span.tells(at(1_005));
    rig.span.flushed();
    assert_eq!(q, 12);
    let tails: Vec<u64> = rig
        .until(70_000)
        .into_iter()
        .map(|(millis, step)| {
            assert_eq!(step, SpanStep::Tail { q: 12, rank: 2 });
            millis
        })
        .collect();
    assert_eq!(tails, [2_005, 6_005, 36_005, 66_005]);
}

#[test]
fn a_member_that_leaves_or_dies_is_gone_and_one_that_is_late_is_not() {
    let mut rig = Rig::shared();
    assert_eq!(rig.hear(1_000, OTHER, Says::Leave { q: 3 }), [], "it has told later things");
    let gone = |fault| SpanStep::Tell(SpanNews::Gone { node: OTHER, fault });
    let nobody = || SpanStep::Tell(SpanNews::Spans(false));
    assert_eq!(rig.hear(1_000, OTHER, Says::Leave { q: 5 }), [gone(false), nobody()]);
    let mut rig = Rig::shared();
    let mut out = Vec::new();
    rig.span.node_gone(OTHER, true, &mut out);
    rig.span.node_gone(OTHER, true, &mut out);
    assert_eq!(out, [gone(true), nobody()]);
}

#[test]
fn the_list_of_a_node_finds_what_interest_missed() {
    let mut rig = Rig::shared();
    let (q, mut out) = (rig.span.q(), Vec::new());
    assert!(!rig.span.is_held(at(1_000), OTHER, &mut out), "it is known");
    assert!(rig.span.is_held(at(1_000), THIRD, &mut out));
    rig.span.act(at(1_000), &mut out);
    assert_eq!(out, [SpanStep::Sync { to: THIRD, q }]);
    rig.span.is_not_held(at(2_000), OTHER);
    assert!(rig.until(2_000).contains(&(2_000, SpanStep::Sync { to: OTHER, q })), "it has to say so itself");
}

#[test]
fn after_an_outage_numbers_are_compared_and_nobody_is_asked_for_what_is_known() {
    let mut rig = Rig::shared();
    rig.span.bus_back(at(5_000), Duration::from_millis(700));
    let (q, rank) = (rig.span.q(), rig.span.rank());
    assert_eq!(rig.until(6_000), [(5_700, SpanStep::Tail { q, rank })]);
    let mut alone = Rig::new();
    alone.come(0);
    alone.until(10_000);
    alone.span.bus_back(at(10_000), Duration::from_millis(700));
    assert_eq!(alone.until(10_750), [(10_700, SpanStep::Enter { q: 12, empty: false })]);
}

#[test]
fn a_channel_is_listened_to_for_a_while_and_its_numbers_go_on() {
    let mut rig = Rig::shared();
    let mut out = Vec::new();
    rig.span.leave(at(2_000), &mut out);
    assert_eq!(out, [SpanStep::Leave { q: 12 }]);
    let nobody = |reply: &str| SpanStep::Nobody { reply: reply.to_owned() };
    let mut asked = Vec::new();
    rig.span.hear(at(2_001), (OTHER, ME), Says::Sync { q: 1 }, Some("r".to_owned()), &mut asked);
    assert_eq!(asked, [nobody("r")]);
    assert_eq!(rig.hear(2_002, OTHER, change(5)), [], "nobody here wants to know");
    assert_eq!(rig.until(61_999), []);
    assert_eq!(rig.until(62_000), [(62_000, SpanStep::Unsubscribe)]);
    assert_eq!(rig.come(62_000), [SpanStep::Enter { q: 13, empty: true }]);
}

#[test]
fn a_roster_is_given_to_who_asks_but_not_all_the_time() {
    let mut rig = Rig::shared();
    let mut ask = |millis: u64| {
        let mut out = Vec::new();
        rig.span.hear(at(millis), (OTHER, ME), Says::Sync { q: 4 }, Some("r".to_owned()), &mut out);
        out
    };
    let given = || SpanStep::Tell(SpanNews::RosterWanted { reply: "r".to_owned() });
    assert_eq!([ask(1_000), ask(1_010), ask(1_060)], [vec![given()], vec![], vec![given()]]);
}

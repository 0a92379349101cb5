use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn limits(max_messages: usize, inflight: u16) -> Limits {
    Limits { max_messages, max_bytes: 1_000, max_payload_bytes: 100, inflight, policy: Policy::DropOldest }
}

fn message(number: u32, size: usize, qos: Qos) -> Message {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(size.max(4), 0);
    let marks = Some(Marks { pipeline: 0, arrival: MonoTime(u64::from(number)), invoke_end: MonoTime(0) });
    Message { topic: "t".into(), payload: payload.into(), qos, retain: false, class: Class::Prediction, marks }
}

fn number(message: &Message) -> u32 {
    u32::from_be_bytes(message.payload[..4].try_into().unwrap())
}

fn hand_all(outbox: &mut Outbox) -> Vec<(u16, u32)> {
    std::iter::from_fn(|| outbox.next_to_send(0).map(|(id, m)| (id, number(m)))).collect()
}

#[test]
fn never_more_than_inflight_out_and_an_id_is_reused_only_after_its_ack() {
    let mut outbox = Outbox::new(limits(100, 3));
    for n in 0..5 {
        assert_eq!(outbox.push(message(n, 4, Qos::AtLeastOnce)), Pushed::Queued);
    }
    assert_eq!(hand_all(&mut outbox), [(1, 0), (2, 1), (3, 2)]);
    assert!(outbox.on_puback(2));
    assert!(!outbox.on_puback(2), "an ack twice");
    assert!(!outbox.on_puback(0) && !outbox.on_puback(4), "ids that were never out");
    assert_eq!(hand_all(&mut outbox), [(2, 3)]);
    assert_eq!(outbox.stats().handed, 3);
}

#[test]
fn a_rewind_restores_the_order_whatever_the_order_of_acks() {
    let mut outbox = Outbox::new(limits(100, 3));
    for n in 0..6 {
        outbox.push(message(n, 4, Qos::AtLeastOnce));
    }
    hand_all(&mut outbox);
    outbox.on_puback(3);
    outbox.on_puback(1);
    hand_all(&mut outbox);
    outbox.rewind();
    let numbers: Vec<u32> = hand_all(&mut outbox).iter().map(|(_, n)| *n).collect();
    assert_eq!(numbers, [1, 3, 4]);
    assert_eq!(outbox.stats().resent, 3);
}

#[test]
fn a_full_outbox_drops_by_policy_and_counts_exactly() {
    let mut oldest = Outbox::new(limits(3, 2));
    let mut newest = Outbox::new(Limits { policy: Policy::DropNewest, ..limits(3, 2) });
    for n in 0..10 {
        oldest.push(message(n, 4, Qos::AtLeastOnce));
        newest.push(message(n, 4, Qos::AtLeastOnce));
    }
    assert_eq!(oldest.stats().drops.get(Class::Prediction, Reason::Full), 7);
    assert_eq!(newest.stats().drops.get(Class::Prediction, Reason::Full), 7);
    assert_eq!(hand_all(&mut oldest), [(1, 7), (2, 8)]);
    assert_eq!(hand_all(&mut newest), [(1, 0), (2, 1)]);
}

#[test]
fn what_is_handed_over_is_never_dropped_for_room() {
    let mut outbox = Outbox::new(limits(2, 2));
    outbox.push(message(0, 4, Qos::AtLeastOnce));
    outbox.push(message(1, 4, Qos::AtLeastOnce));
    hand_all(&mut outbox);
    assert_eq!(outbox.push(message(2, 4, Qos::AtLeastOnce)), Pushed::Refused(Reason::Full));
    assert!(outbox.on_puback(1) && outbox.on_puback(2));
}

#[test]
fn bytes_are_bounded_too() {
    let mut outbox = Outbox::new(Limits { max_bytes: 100, ..limits(100, 2) });
    assert_eq!(outbox.push(message(0, 49, Qos::AtLeastOnce)), Pushed::Queued);
    assert_eq!(outbox.push(message(1, 49, Qos::AtLeastOnce)), Pushed::Queued);
    assert_eq!(outbox.stats().bytes, 100);
    assert_eq!(outbox.push(message(2, 99, Qos::AtLeastOnce)), Pushed::Displaced(2));
    assert_eq!(outbox.push(message(3, 100, Qos::AtLeastOnce)), Pushed::Refused(Reason::Oversize));
}

#[test]
fn what_a_broker_would_cut_the_connection_over_is_refused() {
    let mut outbox = Outbox::new(limits(100, 2));
    assert_eq!(outbox.push(message(0, 101, Qos::AtLeastOnce)), Pushed::Refused(Reason::Oversize));
    for topic in ["", "a/+/b", "a/#", "a\0b"] {
        let bad = Message { topic: topic.into(), ..message(0, 4, Qos::AtMostOnce) };
        assert_eq!(outbox.push(bad), Pushed::Refused(Reason::Topic), "{topic:?}");
    }
    assert!(outbox.is_empty());
    assert_eq!(outbox.stats().drops.total(), 5);
}

#[test]
fn marks_are_told_once_and_only_after_the_write() {
    let mut outbox = Outbox::new(limits(100, 2));
    outbox.push(message(7, 4, Qos::AtLeastOnce));
    outbox.push(message(8, 4, Qos::AtMostOnce));
    let mut marks = Vec::new();
    outbox.on_written(&mut marks);
    hand_all(&mut outbox);
    outbox.rewind();
    assert!(marks.is_empty(), "the write failed: not handed over yet");
    hand_all(&mut outbox);
    outbox.on_written(&mut marks);
    let mut arrivals: Vec<u64> = marks.iter().map(|m| m.arrival.0).collect();
    arrivals.sort_unstable();
    assert_eq!(arrivals, [7, 8]);
    outbox.rewind();
    hand_all(&mut outbox);
    outbox.on_written(&mut marks);
    assert_eq!(marks.len(), 2, "a resend tells nothing");
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize, Qos),
    Hand,
    Written,
    Ack(prop::sample::Index),
    Rewind,
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop_oneof![Just(Qos::AtMostOnce), Just(Qos::AtLeastOnce)];
    prop_oneof![
        6 => (4_usize..60, qos).prop_map(|(size, qos)| Step::Push(size, qos)),
        6 => Just(Step::Hand),
        2 => Just(Step::Written),
        4 => any::<prop::sample::Index>().prop_map(Step::Ack),
        1 => Just(Step::Rewind),
    ]
}

proptest! {
    #[test]
    fn nothing_is_lost_uncounted_and_first_deliveries_keep_their_order(
        steps in prop::collection::vec(step(), 1..300),
        policy in prop_oneof![Just(Policy::DropOldest), Just(Policy::DropNewest)],
    ) {
        let mut outbox = Outbox::new(Limits { policy, max_bytes: 400, ..limits(12, 4) });
        let (mut produced, mut first_deliveries) = (0, Vec::new());
        let mut retired = BTreeSet::new();
        let mut out: Vec<(u16, u32)> = Vec::new();
        for step in steps {
            match step {
                Step::Push(size, qos) => { outbox.push(message(produced, size, qos)); produced += 1; }
                Step::Hand => if let Some((id, m)) = outbox.next_to_send(0) {
                    let n = number(m);
                    prop_assert!(id == 0 || out.iter().all(|(other, _)| *other != id), "an id twice");
                    if first_deliveries.last().is_none_or(|last| n > *last) { first_deliveries.push(n) }
                    else { prop_assert!(first_deliveries.contains(&n), "out of order") }
                    out.push((id, n));
                },
                Step::Written => {
                    outbox.on_written(&mut Vec::new());
                    for (_, n) in out.extract_if(.., |(id, _)| *id == 0) { prop_assert!(retired.insert(n)) }
                }
                Step::Ack(index) => {
                    let acks: Vec<(u16, u32)> = out.iter().filter(|(id, _)| *id != 0).copied().collect();
                    if !acks.is_empty() {
                        let (id, n) = *index.get(&acks);
                        prop_assert!(outbox.on_puback(id));
                        prop_assert!(retired.insert(n));
                        out.retain(|(other, _)| *other != id);
                    }
                }
                Step::Rewind => { outbox.rewind(); out.clear(); }
            }
            let s = outbox.stats();
            prop_assert_eq!(s.produced, s.acked + s.written + s.queued + s.handed + s.drops.total());
            prop_assert_eq!(s.handed as usize, out.len());
            prop_assert!(s.queued + s.handed <= 12 && s.bytes <= 400);
        }
        let s = outbox.stats();
        outbox.rewind();
        let mut left = Vec::new();
        while !outbox.is_empty() {
            for (id, n) in hand_all(&mut outbox) { left.push(n); outbox.on_puback(id); }
            outbox.on_written(&mut Vec::new());
        }
        prop_assert!(left.windows(2).all(|pair| pair[0] < pair[1]), "order after a rewind");
        prop_assert!(left.iter().all(|n| !retired.contains(n)), "delivered and kept");
        prop_assert_eq!(left.len() + retired.len() + s.drops.total() as usize, produced as usize);
        prop_assert_eq!(outbox.stats().bytes, 0);
    }
}

use crate::ids::PipelineId;
use crate::units::MonoTime;

use super::*;

fn limits(max_messages: usize, inflight: u16) -> Limits {
    Limits {
        max_messages,
        max_bytes: 1_000,
        max_stored_bytes: 0,
        max_age_ms: u64::MAX,
        max_payload_bytes: 100,
        inflight,
        when_full: WhenFull::DropOldest,
    }
}

fn message(number: u32, size: usize, qos: Qos) -> Message {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(size.max(4), 0);
    let marks = Some(Marks { pipeline: PipelineId(0), arrival: MonoTime(u64::from(number)), invoke_end: MonoTime(0) });
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
        assert_eq!(outbox.push(message(n, 4, Qos::AtLeastOnce), 0), Pushed::Queued);
    }
    assert_eq!(hand_all(&mut outbox), [(1, 0), (2, 1), (3, 2)]);
    assert!(outbox.on_puback(2, false));
    assert!(!outbox.on_puback(2, false), "an ack twice");
    assert!(!outbox.on_puback(0, false) && !outbox.on_puback(4, false), "ids that were never out");
    assert_eq!(hand_all(&mut outbox), [(2, 3)]);
    assert_eq!(outbox.stats().in_flight, 3);
}

#[test]
fn a_rewind_restores_the_order_whatever_the_order_of_acks() {
    let mut outbox = Outbox::new(limits(100, 3));
    for n in 0..6 {
        outbox.push(message(n, 4, Qos::AtLeastOnce), 0);
    }
    hand_all(&mut outbox);
    outbox.on_puback(3, false);
    outbox.on_puback(1, false);
    hand_all(&mut outbox);
    outbox.rewind(false);
    let numbers: Vec<u32> = hand_all(&mut outbox).iter().map(|(_, n)| *n).collect();
    assert_eq!(numbers, [1, 3, 4]);
    assert_eq!(outbox.stats().resent, 3);
}

#[test]
fn a_full_outbox_drops_by_policy_and_counts_exactly() {
    let mut oldest = Outbox::new(limits(3, 2));
    let mut newest = Outbox::new(Limits { when_full: WhenFull::DropNewest, ..limits(3, 2) });
    for n in 0..10 {
        oldest.push(message(n, 4, Qos::AtLeastOnce), 0);
        newest.push(message(n, 4, Qos::AtLeastOnce), 0);
    }
    assert_eq!(oldest.stats().drops.get(Class::Prediction, Reason::Full), 7);
    assert_eq!(newest.stats().drops.get(Class::Prediction, Reason::Full), 7);
    assert_eq!(hand_all(&mut oldest), [(1, 7), (2, 8)]);
    assert_eq!(hand_all(&mut newest), [(1, 0), (2, 1)]);
}

#[test]
fn what_is_handed_over_is_never_dropped_for_room() {
    let mut outbox = Outbox::new(limits(2, 2));
    outbox.push(message(0, 4, Qos::AtLeastOnce), 0);
    outbox.push(message(1, 4, Qos::AtLeastOnce), 0);
    hand_all(&mut outbox);
    assert_eq!(outbox.push(message(2, 4, Qos::AtLeastOnce), 0), Pushed::Refused(Reason::Full));
    assert!(outbox.on_puback(1, false) && outbox.on_puback(2, false));
}

#[test]
fn bytes_are_bounded_too() {
    let mut outbox = Outbox::new(Limits { max_bytes: 100, ..limits(100, 2) });
    assert_eq!(outbox.push(message(0, 49, Qos::AtLeastOnce), 0), Pushed::Queued);
    assert_eq!(outbox.push(message(1, 49, Qos::AtLeastOnce), 0), Pushed::Queued);
    assert_eq!(outbox.stats().bytes, 100);
    assert_eq!(outbox.push(message(2, 99, Qos::AtLeastOnce), 0), Pushed::Displaced(2));
    assert_eq!(outbox.push(message(3, 100, Qos::AtLeastOnce), 0), Pushed::Refused(Reason::Oversize));
}

#[test]
fn what_a_broker_would_cut_the_connection_over_is_refused() {
    let mut outbox = Outbox::new(limits(100, 2));
    assert_eq!(outbox.push(message(0, 101, Qos::AtLeastOnce), 0), Pushed::Refused(Reason::Oversize));
    for topic in ["", "a/+/b", "a/#", "a\0b"] {
        let bad = Message { topic: topic.into(), ..message(0, 4, Qos::AtMostOnce) };
        assert_eq!(outbox.push(bad, 0), Pushed::Refused(Reason::Topic), "{topic:?}");
    }
    assert!(outbox.is_empty());
    assert_eq!(outbox.stats().drops.total(), 5);
}

#[test]
fn marks_are_given_once_and_only_after_the_write() {
    let mut outbox = Outbox::new(limits(100, 2));
    outbox.push(message(7, 4, Qos::AtLeastOnce), 0);
    outbox.push(message(8, 4, Qos::AtMostOnce), 0);
    let mut marks = Vec::new();
    outbox.on_written(&mut marks);
    hand_all(&mut outbox);
    outbox.rewind(false);
    assert!(marks.is_empty(), "the write failed: not sent yet");
    hand_all(&mut outbox);
    outbox.on_written(&mut marks);
    let mut arrivals: Vec<u64> = marks.iter().map(|m| m.arrival.0).collect();
    arrivals.sort_unstable();
    assert_eq!(arrivals, [7, 8]);
    outbox.rewind(false);
    hand_all(&mut outbox);
    outbox.on_written(&mut marks);
    assert_eq!(marks.len(), 2, "a resend gives no marks");
}

#[test]
fn a_lane_of_few_is_neither_late_nor_crowded_out() {
    let of = |class, number| Message { class, ..message(number, 4, Qos::AtLeastOnce) };
    for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
        let mut outbox = Outbox::new(Limits { when_full, ..limits(20, 4) });
        for number in 0..30 {
            outbox.push(of(Class::Prediction, number), 0);
        }
        for number in 0..5 {
            outbox.push(of(Class::Metrics, 40 + number), 0);
        }
        assert_eq!(outbox.push(of(Class::Event, 50), 0), Pushed::Displaced(1), "{when_full:?}");
        let drops = outbox.stats().drops;
        assert_eq!(drops.total(), 16);
        assert!(drops.get(Class::Metrics, Reason::Full) <= 3, "beyond its share metrics give way: {drops:?}");
        let numbers: Vec<u32> = hand_all(&mut outbox).iter().map(|(_, n)| *n).collect();
        assert_eq!(numbers[0], 50, "events come first");
        assert!(numbers[1..].iter().all(|n| *n < 40), "then predictions: {numbers:?}");
    }
}

#[test]
fn what_has_waited_too_long_is_dropped_before_it_is_sent() {
    let mut outbox = Outbox::new(Limits { max_age_ms: 1_000, ..limits(100, 4) });
    for number in 0..3 {
        outbox.push(message(number, 4, Qos::AtLeastOnce), u64::from(number) * 400);
    }
    outbox.expire(1_300);
    assert_eq!(hand_all(&mut outbox), [(1, 1), (2, 2)]);
    assert_eq!(outbox.stats().drops.get(Class::Prediction, Reason::Expired), 1);
}

mod with_a_store;

#[test]
fn a_store_that_does_not_open_holds_nothing_up_for_ever() {
    let mut outbox = Outbox::new(limits(100, 3));
    outbox.await_store();
    outbox.push(message(0, 4, Qos::AtLeastOnce), 1_000);
    outbox.expire(1_000);
    outbox.expire(30_000);
    assert!(!outbox.can_send(), "what an earlier run left may come before it");
    outbox.expire(31_001);
    assert_eq!(hand_all(&mut outbox), [(1, 0)]);
    // It opens after all, and holds something.
    let mut inventory = outbox.inventory(60_000);
    inventory.add(QueueId::Prediction, 7, 1, 4);
    outbox.adopt(inventory);
    assert!(outbox.on_puback(1, false));
    let s = outbox.stats();
    assert_eq!((s.produced + s.recovered, s.acked + s.queued + s.in_flight + s.drops.total()), (2, 2), "{s:?}");
}

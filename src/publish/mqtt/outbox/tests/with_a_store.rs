//! The outbox with a store that is a map: commits that fail half-way, crashes, files that vanish, in any order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const COMMIT_MS: u64 = 250;
const MESSAGES: usize = 48;
const BYTES: usize = 2_000;
const STORED: u64 = 16 * 1024;
const AGE_MS: u64 = 20_000;
const INFLIGHT: u16 = 4;
const NOW_MS: u64 = 1_800_000_000_000;

fn bounds(when_full: WhenFull) -> Limits {
    Limits { max_bytes: BYTES, max_stored_bytes: STORED, max_age_ms: AGE_MS, when_full, ..limits(MESSAGES, INFLIGHT) }
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize, Qos, Class),
    Hand,
    Written,
    Ack(prop::sample::Index, bool),
    Rewind,
    Wait(u64),
    /// A transaction, and reading back.
    Commit,
    Page,
    /// A transaction that fails after it was done, or before.
    Fail(bool),
    /// Likewise, but the disk can be read.
    Refuse(bool),
    Reopen,
    Crash,
    /// The file goes, and another, empty, is there.
    Vanish,
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop_oneof![1 => Just(Qos::AtMostOnce), 5 => Just(Qos::AtLeastOnce)];
    let class = prop_oneof![6 => Just(Class::Prediction), 1 => Just(Class::Metrics), 1 => Just(Class::Event)];
    prop_oneof![
        24 => (4_usize..60, qos, class).prop_map(|(size, qos, class)| Step::Push(size, qos, class)),
        8 => Just(Step::Hand),
        3 => Just(Step::Written),
        6 => (any::<prop::sample::Index>(), prop::bool::weighted(0.1)).prop_map(|(i, refused)| Step::Ack(i, refused)),
        1 => Just(Step::Rewind),
        4 => (1_u64..400).prop_map(Step::Wait),
        6 => Just(Step::Commit),
        4 => Just(Step::Page),
    ]
}

fn failing_step() -> impl Strategy<Value = Step> {
    let fails = prop_oneof![
        any::<bool>().prop_map(Step::Fail),
        any::<bool>().prop_map(Step::Refuse),
        Just(Step::Reopen),
        Just(Step::Reopen),
        Just(Step::Crash),
        Just(Step::Vanish),
    ];
    prop_oneof![12 => step(), 1 => fails]
}

/// Outbox and store, and what is known of both.
struct Model {
    outbox: Outbox,
    when_full: WhenFull,
    disk: BTreeMap<(usize, u64), Row>,
    now_ms: u64,
    /// The disk is not to be read before it is opened again.
    down: bool,
    read_only: bool,
    produced: u32,
    out: Vec<(u16, u32)>,
    /// Of this run of the outbox.
    retired: BTreeSet<u32>,
    refused: u64,
    first: [Vec<u32>; QueueId::ALL.len()],
    in_order: bool,
}

impl Model {
    fn new(when_full: WhenFull) -> Self {
        let mut model = Self {
            outbox: Outbox::new(bounds(when_full)),
            when_full,
            disk: BTreeMap::new(),
            now_ms: NOW_MS,
            down: false,
            read_only: false,
            produced: 0,
            out: Vec::new(),
            retired: BTreeSet::new(),
            refused: 0,
            first: Default::default(),
            in_order: true,
        };
        model.outbox.await_store();
        model.adopt();
        model
    }

    fn adopt(&mut self) {
        let mut inventory = self.outbox.inventory(self.now_ms);
        for row in self.disk.values() {
            inventory.add(row.queue, row.id, row.time_ms, row.topic.len() + row.payload.len());
        }
        let before = self.outbox.stats().recovered;
        self.outbox.adopt(inventory);
        assert_eq!(self.outbox.stats().recovered - before, self.disk.len() as u64);
        (self.down, self.read_only) = (false, false);
    }

    fn apply(&mut self, work: &Work) {
        for (queue, range) in work.reset.iter().flatten() {
            let stays = |id: u64| range.is_some_and(|(first, last)| (first..=last).contains(&id));
            self.disk.retain(|(of, id), _| *of != *queue as usize || stays(*id));
        }
        for row in &work.inserts {
            self.disk.insert((row.queue as usize, row.id), row.clone());
        }
        for (queue, id) in &work.deletes {
            self.disk.remove(&(*queue as usize, *id));
        }
        for (queue, first, last) in &work.cuts {
            self.disk.retain(|(of, id), _| *of != *queue as usize || !(first..=last).contains(&id));
        }
    }

    fn commit(&mut self) {
        loop {
            let work = self.outbox.take(self.now_ms, COMMIT_MS, true);
            self.apply(&work);
            if !work.is_empty() {
                self.outbox.stored();
            }
            if !work.more {
                break;
            }
        }
        if self.down || self.read_only {
            return;
        }
        let stats = self.outbox.stats();
        assert_eq!(stats.stored, self.disk.len() as u64, "the same count on both sides");
        let late = self.outbox.store_due_ms(COMMIT_MS).is_some_and(|due_ms| due_ms <= self.now_ms);
        assert!(!late || stats.stored_bytes + 200 > STORED / 2, "nothing stays in memory alone but for want of room");
    }

    fn page(&mut self) -> bool {
        let Some(request) = self.outbox.wanted_page() else { return false };
        assert!(!self.down);
        let queue = request.queue as usize;
        let rows =
            self.disk.range((queue, request.first)..=(queue, request.last)).map(|(_, row)| row.clone()).collect();
        self.outbox.page(request, rows);
        true
    }

    fn hand(&mut self) -> bool {
        self.outbox.expire(self.now_ms);
        let Some((id, m)) = self.outbox.next_to_send(0) else { return false };
        let (n, queue) = (number(m), QueueId::of(m) as usize);
        assert!(id == 0 || self.out.iter().all(|(other, _)| *other != id), "an id twice");
        let first = &mut self.first[queue];
        if self.in_order && !first.contains(&n) {
            assert!(first.last().is_none_or(|last| n > *last), "{n} out of order after {first:?}");
        }
        first.push(n);
        self.out.push((id, n));
        true
    }

    fn written(&mut self) {
        self.outbox.on_written(&mut Vec::new());
        for (_, n) in self.out.extract_if(.., |(id, _)| *id == 0) {
            assert!(self.retired.insert(n));
        }
    }

    fn ack(&mut self, index: usize, refused: bool) {
        let (id, n) = self.out[index];
        if id != 0 {
            assert!(self.outbox.on_puback(id, refused));
            assert!(self.retired.insert(n), "{n} twice in one run");
            self.refused += u64::from(refused);
            self.out.remove(index);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(size, qos, class) => {
                self.outbox.push(Message { class, ..message(self.produced, size, qos) }, self.now_ms);
                self.produced += 1;
            }
            Step::Hand => _ = self.hand(),
            Step::Written => self.written(),
            Step::Ack(index, refused) if !self.out.is_empty() => self.ack(index.index(self.out.len()), refused),
            Step::Ack(..) => {}
            Step::Rewind => {
                self.outbox.rewind(false);
                self.out.clear();
            }
            Step::Wait(ms) => self.now_ms += ms,
            Step::Commit => self.commit(),
            Step::Page => _ = self.page(),
            Step::Fail(done) => {
                let work = self.outbox.take(self.now_ms, COMMIT_MS, true);
                if done {
                    self.apply(&work);
                }
                self.outbox.store_failed();
                (self.down, self.read_only, self.in_order) = (true, false, false);
            }
            Step::Refuse(_) if self.down => {}
            Step::Refuse(done) => {
                let work = self.outbox.take(self.now_ms, COMMIT_MS, true);
                if done {
                    self.apply(&work);
                }
                self.outbox.store_is_read_only();
                self.read_only = true;
            }
            Step::Reopen => {
                self.outbox.store_is_back();
                (self.down, self.read_only) = (false, false);
            }
            Step::Crash => self.crash(),
            Step::Vanish => {
                self.outbox.store_failed();
                self.disk.clear();
                self.adopt();
                self.in_order = false;
            }
        }
    }

    fn crash(&mut self) {
        self.check();
        let mut after = Self { disk: std::mem::take(&mut self.disk), ..Self::new(self.when_full) };
        (after.now_ms, after.produced) = (self.now_ms, self.produced);
        after.outbox = Outbox::new(bounds(self.when_full));
        after.outbox.await_store();
        assert!(!after.outbox.can_send());
        after.adopt();
        *self = after;
    }

    fn check(&self) {
        let s = self.outbox.stats();
        let held = s.queued + s.in_flight;
        assert_eq!(s.produced + s.recovered, s.acked + s.written + held + s.drops.total(), "{s:?}");
        assert_eq!(s.in_flight as usize, self.out.len());
        assert_eq!(s.acked + s.written + self.refused, self.retired.len() as u64);
        assert!(s.bytes <= (BYTES / 10 * 11) as u64 && self.outbox.held() <= MESSAGES + 6, "{s:?}");
        assert!(s.stored_bytes <= STORED, "{s:?}");
        assert_eq!(s.bytes == 0, self.outbox.held() == 0, "{s:?}");
    }

    /// Delivers all that is there; nothing may be left, or left uncounted.
    fn finish(mut self) {
        if self.down || self.read_only {
            self.step(Step::Reopen);
        }
        self.step(Step::Rewind);
        self.commit();
        while !self.outbox.is_empty() {
            let (paged, sent) = (self.page(), self.hand());
            self.written();
            while !self.out.is_empty() {
                self.ack(0, false);
            }
            assert!(paged || sent, "stuck: {:?}", self.outbox);
            self.commit();
            self.check();
        }
        let s = self.outbox.stats();
        assert_eq!((s.bytes, s.stored, s.stored_bytes, self.disk.len()), (0, 0, 0, 0), "{s:?}");
        // Each was retired once at most, so that the counts show that each was.
        assert_eq!(s.produced + s.recovered, s.acked + s.written + s.drops.total());
    }
}

fn run(when_full: WhenFull, steps: Vec<Step>) {
    let mut model = Model::new(when_full);
    for step in steps {
        model.step(step);
        model.check();
    }
    model.finish();
}

fn when_full() -> impl Strategy<Value = WhenFull> {
    prop_oneof![Just(WhenFull::DropOldest), Just(WhenFull::DropNewest)]
}

proptest! {
    #[test]
    fn a_sound_store_keeps_the_order_and_all_that_is_not_counted(
        when_full in when_full(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        run(when_full, steps);
    }

    #[test]
    fn whatever_fails_nothing_is_lost_uncounted(
        when_full in when_full(),
        steps in prop::collection::vec(failing_step(), 1..300),
    ) {
        run(when_full, steps);
    }
}

/// Pushes a prediction every 100 ms, and commits as often.
fn outage(model: &mut Model, count: u32) {
    for _ in 0..count {
        model.step(Step::Push(20, Qos::AtLeastOnce, Class::Prediction));
        model.step(Step::Wait(100));
        model.step(Step::Commit);
        model.check();
    }
}

#[test]
fn what_is_acknowledged_in_time_is_never_written() {
    let mut model = Model::new(WhenFull::DropOldest);
    for _ in 0..1_000 {
        model.step(Step::Push(20, Qos::AtLeastOnce, Class::Prediction));
        assert!(model.hand());
        model.step(Step::Wait(COMMIT_MS - 1));
        assert!(model.outbox.take(model.now_ms, COMMIT_MS, true).is_empty());
        model.ack(0, false);
    }
    model.step(Step::Push(20, Qos::AtMostOnce, Class::Prediction));
    model.step(Step::Wait(10 * COMMIT_MS));
    assert!(model.outbox.take(model.now_ms, COMMIT_MS, true).is_empty(), "QoS 0 is never stored");
}

#[test]
fn what_is_not_acknowledged_in_time_is_written_with_all_that_came_since() {
    let mut model = Model::new(WhenFull::DropOldest);
    model.step(Step::Push(20, Qos::AtLeastOnce, Class::Prediction));
    assert!(model.hand(), "to be sent is not enough");
    model.step(Step::Wait(COMMIT_MS - 1));
    model.step(Step::Push(20, Qos::AtLeastOnce, Class::Event));
    assert!(model.outbox.take(model.now_ms, COMMIT_MS, true).is_empty());
    model.step(Step::Wait(1));
    assert_eq!(model.outbox.take(model.now_ms, COMMIT_MS, true).inserts.len(), 2);
}

#[test]
fn what_is_acknowledged_while_the_store_fails_goes_from_between_those_that_are_parked() {
    let mut model = Model::new(WhenFull::DropOldest);
    outage(&mut model, 20);
    model.step(Step::Fail(false));
    while model.hand() {
        model.ack(0, false);
    }
    // These pass those that are out of reach; then they are stored, and those behind them are parked.
    outage(&mut model, 10);
    while model.out.len() < 4 && model.hand() {}
    model.step(Step::Reopen);
    outage(&mut model, 20);
    model.step(Step::Fail(false));
    while !model.out.is_empty() {
        model.ack(0, false);
    }
    model.step(Step::Reopen);
    outage(&mut model, 5);
    let s = model.outbox.stats();
    assert!(s.acked > 4 && model.disk.len() as u64 <= s.queued, "{} in the file, {s:?}", model.disk.len());
    model.finish();
}

#[test]
fn in_an_outage_memory_is_left_to_what_is_next_and_what_is_new() {
    let mut model = Model::new(WhenFull::DropOldest);
    outage(&mut model, 150);
    let s = model.outbox.stats();
    assert_eq!((s.queued, s.drops.total()), (150, 0));
    assert!(s.stored >= 147 && model.outbox.held() <= 8, "{s:?}, {} in memory", model.outbox.held());
    model.finish();
}

#[test]
fn a_crash_loses_what_was_in_memory_alone_and_no_more() {
    let mut model = Model::new(WhenFull::DropOldest);
    outage(&mut model, 100);
    model.crash();
    let s = model.outbox.stats();
    assert!((98..=100).contains(&s.recovered), "{s:?}");
    assert_eq!((s.produced, s.queued), (0, s.recovered));
    let expected = s.recovered as usize;
    model.step(Step::Push(20, Qos::AtLeastOnce, Class::Prediction));
    while model.first[QueueId::Prediction as usize].len() < expected + 1 {
        model.page();
        assert!(model.hand());
        model.ack(0, false);
    }
    let order = &model.first[QueueId::Prediction as usize];
    assert!(order.is_sorted() && order[0] == 0 && order[expected] == 100, "the old ones first: {order:?}");
}

#[test]
fn while_the_store_is_out_of_reach_new_messages_pass_those_in_it() {
    let mut model = Model::new(WhenFull::DropOldest);
    outage(&mut model, 100);
    model.step(Step::Fail(false));
    model.step(Step::Push(20, Qos::AtLeastOnce, Class::Prediction));
    while model.hand() {
        model.ack(0, false);
    }
    assert_eq!(model.first[QueueId::Prediction as usize].last(), Some(&100));
    let left = model.outbox.stats();
    assert!(left.queued > 90 && left.drops.total() == 0, "{left:?}");
    model.step(Step::Reopen);
    model.finish();
}

#[test]
fn what_a_store_has_that_cannot_be_written_is_sent_in_order() {
    let mut model = Model::new(WhenFull::DropOldest);
    outage(&mut model, 100);
    model.step(Step::Refuse(false));
    outage(&mut model, 5);
    for _ in 0..60 {
        model.page();
        assert!(model.hand());
        model.ack(0, false);
        model.check();
    }
    let order = &model.first[QueueId::Prediction as usize];
    assert!(order.iter().copied().eq(0..60), "{order:?}");
    assert!(model.disk.keys().any(|(_, id)| *id == 0), "nothing is deleted yet");
    model.step(Step::Reopen);
    model.commit();
    assert_eq!(model.disk.keys().next().map(|(_, id)| *id), Some(60), "what was sent is deleted");
    model.finish();
}

#[test]
fn what_is_new_does_not_displace_what_a_store_has_that_cannot_be_written() {
    let mut model = Model::new(WhenFull::DropOldest);
    outage(&mut model, 100);
    let stored = model.disk.len() as u32;
    model.step(Step::Refuse(false));
    for _ in 0..200 {
        model.step(Step::Push(20, Qos::AtLeastOnce, Class::Prediction));
        while model.page() {}
        model.check();
    }
    while model.page() || model.hand() {
        while !model.out.is_empty() {
            model.ack(0, false);
        }
    }
    let order = &model.first[QueueId::Prediction as usize];
    assert!(stored > 90 && order.iter().copied().take(stored as usize).eq(0..stored), "{order:?}");
    assert_eq!(order.last(), Some(&299));
}

#[test]
fn a_clock_that_was_not_set_makes_no_message_too_old() {
    let mut outbox = Outbox::new(Limits { max_bytes: 100_000, ..bounds(WhenFull::DropOldest) });
    let mut inventory = outbox.inventory(NOW_MS);
    for (id, time_ms) in [5_000, NOW_MS + 1_000_000, NOW_MS - AGE_MS - 1, NOW_MS - 5].into_iter().enumerate() {
        inventory.add(QueueId::ALL[1], id as u64, time_ms, 20);
    }
    outbox.adopt(inventory);
    let request = outbox.wanted_page().unwrap();
    assert_eq!((request.first, request.last), (0, 1), "the first two came now, as far as is known");
    outbox.expire(NOW_MS);
    assert_eq!(outbox.stats().queued, 4, "the one too old is behind others");
}

/// A crash between two transactions must not cost what was committed long before.
#[test]
fn what_a_file_may_have_comes_with_the_reset_that_deletes_it_and_the_rest_in_small_transactions() {
    const STORED: u64 = 1 << 20;
    let limits = Limits { max_bytes: 1 << 20, max_stored_bytes: STORED, ..limits(16_000, 8) };
    let mut outbox = Outbox::new(limits);
    outbox.await_store();
    let nothing = outbox.inventory(0);
    outbox.adopt(nothing);
    let push = |outbox: &mut Outbox, ids: std::ops::Range<u32>| {
        ids.for_each(|n| assert_eq!(outbox.push(message(n, 100, Qos::AtLeastOnce), 0), Pushed::Queued));
    };
    push(&mut outbox, 0..2_000);
    while outbox.take(0, 0, true).more {
        outbox.stored();
    }
    outbox.stored();
    let parked = outbox.queues[QueueId::Prediction as usize].parked.front().unwrap().first;
    assert!(parked > 400 && outbox.stats().stored == 2_000, "{parked}");
    outbox.store_failed();
    push(&mut outbox, 2_000..5_000);
    outbox.store_is_back();
    let mut work = outbox.take(0, 0, true);
    assert!(work.reset.is_some());
    for id in 0..parked {
        assert!(work.inserts.iter().any(|row| row.id == id), "{id} is deleted");
    }
    let mut transactions = 1;
    while work.more {
        assert!(work.inserts.len() < 1_000, "{} at once", work.inserts.len());
        outbox.stored();
        work = outbox.take(0, 0, true);
        transactions += 1;
    }
    outbox.stored();
    assert!(transactions > 5 && outbox.stats().stored == 5_000, "{transactions}: {:?}", outbox.stats());
}

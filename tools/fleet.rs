//! Simulates a fleet: many nodes on one broker, each with the daemon's publisher, outbox and client, on one thread.
//!
//! `cargo run --release --example fleet -- --help`. Decisions are made up; everything after them is real: topics,
//! payloads, retained states, last wills, metrics, reconnects. Prints a line each second, then a summary; docs/fleet.md has
//! results. The latency is measured from the decision to the PUBACK, including waiting.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use edgewatt::config::{Broker, parse_broker};
use edgewatt::decision::Verdict;
use edgewatt::decision::classify::ClassPresentation;
use edgewatt::energy::EnergyEstimate;
use edgewatt::engine::Proof;
use edgewatt::ids::PipelineId;
use edgewatt::infer::stage_times::{Latency, PipelineStats, StageTimes};
use edgewatt::infer::{Decision, DecisionTx};
use edgewatt::mqtt::codec::{Session, Version};
use edgewatt::mqtt::connection::ConnectOptions;
use edgewatt::mqtt::transport::Endpoint;
use edgewatt::publish::bus::{Bus, RetainedLimits};
use edgewatt::publish::message::Qos;
use edgewatt::publish::mqtt::outbox::{Limits, WhenFull};
use edgewatt::publish::mqtt::{ClientState, Handle, MqttClient, Settings};
use edgewatt::publish::payload::{DelegateProof, DelegateState, PipelineState, Process};
use edgewatt::publish::publisher::{
    Condition, DecisionRoute, Drained, IntervalReport, NodeFigures, NodePublisher, PipelinePublisher, Progress,
    PublishLatency,
};
use edgewatt::publish::topic::NodeTopics;
use edgewatt::ring::block_ring;
use edgewatt::sys::boot_id;
use edgewatt::units::{MonoTime, process_cpu_time};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, interval, sleep, sleep_until};

/// How each pipeline is.
const RUNNING: Condition = Condition { state: PipelineState::Running, predicting: true, gate: None };
/// Each node has one pipeline.
const PIPELINE: PipelineId = PipelineId(0);
/// Two of the node and two of its pipeline.
const RETAINED: RetainedLimits = RetainedLimits { topics: 4, payload_bytes: 100_000 };
/// Each class is held for this many decisions, like an exercise.
const HOLD: u64 = 20;
/// Most decisions that wait for the publisher.
const RING: usize = 256;
/// Decisions that are passed on together when they come as fast as possible.
const BATCH: u64 = 64;
/// The time after the last decision to wait for its PUBACK.
const LATEST_ACK: Duration = Duration::from_secs(15);
const METRICS_PERIOD: Duration = Duration::from_secs(10);
const LABELS: &str = include_str!("../models/labels.txt");

#[derive(Parser, Clone)]
#[command(about = "Simulates a fleet of edgewatt nodes on one broker")]
struct Args {
    /// mqtt://HOST[:PORT]; use only your own broker
    #[arg(long, default_value = "mqtt://127.0.0.1:1883")]
    broker: String,
    #[arg(long, default_value_t = 1000)]
    nodes: u32,
    /// Predictions per second of each node; 0: as many as the broker accepts
    #[arg(long, default_value_t = 1.0)]
    rate: f64,
    /// Number of predictions of each node, after which it ends; 0: no limit but --seconds
    #[arg(long, default_value_t = 0)]
    count: u64,
    /// The longest time to run after all nodes are connected
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// New connections per second
    #[arg(long, default_value_t = 500.0)]
    connects_per_s: f64,
    /// The longest time to wait until all nodes are connected
    #[arg(long, default_value_t = 30.0)]
    connect_seconds: f64,
    #[arg(long, default_value_t = 256)]
    inflight: u16,
    /// 5 or 3.1.1
    #[arg(long, default_value = "5")]
    version: String,
    #[arg(long, default_value = "edgewatt")]
    base_topic: String,
    /// Nodes are called PREFIX-0, PREFIX-1, ...
    #[arg(long, default_value = "sim")]
    prefix: String,
}

/// Makes decisions and publishes them.
struct Producer {
    decisions: DecisionTx,
    publisher: PipelinePublisher,
    node_publisher: NodePublisher,
    handle: Handle,
    labels: u16,
    seq: u64,
}

impl Producer {
    fn new(name: &str, args: &Args, handle: Handle, boot: Arc<str>) -> Self {
        let labels: Vec<String> = LABELS.lines().map(str::to_owned).collect();
        let (decisions, taken) = block_ring(RING, RING * labels.len());
        let label_count = u16::try_from(labels.len()).unwrap_or(u16::MAX);
        let topics = NodeTopics::new(&args.base_topic, name);
        let publisher = PipelinePublisher {
            id: PIPELINE,
            name: "shoulder".into(),
            topics: topics.pipeline("shoulder"),
            route: DecisionRoute {
                decisions: taken,
                presentation: Arc::new(ClassPresentation::new(labels, None)),
                qos: Qos::AtLeastOnce,
            },
            next: VecDeque::new(),
            hold: args.rate == 0.0,
            delegate: DelegateState {
                requested: "xnnpack".into(),
                active: "xnnpack".into(),
                reason: None,
                warnings: Vec::new(),
                proof: DelegateProof {
                    isolation: "thread",
                    library: None,
                    library_version: None,
                    engine: Proof::default(),
                    parity: None,
                },
            },
            stats: Arc::<PipelineStats>::default(),
            source_stats: Arc::default(),
            publish_latency: PublishLatency::default(),
            progress: Progress::default(),
        };
        publisher.publish_latency.add(PIPELINE);
        let bus = Bus::new(RETAINED);
        bus.add(handle.clone());
        let node_publisher = NodePublisher { bus, boot, topics };
        publisher.status(&node_publisher, RUNNING, None);
        Self { decisions, publisher, node_publisher, handle, labels: label_count, seq: 0 }
    }

    /// Makes up a decision now. Returns false if there is no room for it.
    fn decide(&mut self, now: MonoTime) -> bool {
        let class = u16::try_from(self.seq / HOLD % u64::from(self.labels.max(1))).unwrap_or(0);
        let score = 0.75 + (self.seq % 64) as f32 / 256.0;
        let decision = Decision {
            seq: self.seq,
            verdict: Verdict { class: Some(class), score, raw_class: Some(class), ..Verdict::VALUES },
            truth: Some(class),
            stream_ns: i64::try_from(self.seq * 1_000_000_000).ok(),
            arrival: now,
            invoke_start: now,
            invoke_end: now,
            batch: 1,
        };
        let taken = self.decisions.push(decision, &vec![score; usize::from(self.labels)]);
        if taken {
            self.seq += 1;
            self.publisher.stats.predictions.fetch_add(1, Relaxed);
        }
        taken
    }

    fn metrics(&mut self, since: Duration) {
        let process = Process {
            cpu_s: process_cpu_time().as_secs_f64(),
            rss_mib: None,
            soc_temperature_c: None,
            clock_mhz: None,
            clock_max_mhz: None,
            throttled: None,
        };
        let delivery = self.handle.delivery();
        let (stages, energy) = (StageTimes::default(), [EnergyEstimate::no_meter()]);
        let node = NodeFigures { delivery: Some(&delivery), process: &process };
        self.node_publisher.metrics(since, &node);
        let report = IntervalReport { length: since, stages: &stages, energy: &energy, condition: RUNNING, gate: None };
        self.publisher.metrics(&self.node_publisher, &report, &node);
    }

    /// Publishes the decisions; waits for the broker if there is time.
    async fn publish_latency(&mut self) {
        let may_hold = self.publisher.hold;
        loop {
            match self.publisher.drain(&self.node_publisher, may_hold) {
                Drained::More => yield_now().await,
                Drained::Held => sleep(Duration::from_millis(1)).await,
                Drained::Empty => return yield_now().await,
            }
        }
    }
}

/// Latencies of all nodes: in this second, and in total.
#[derive(Default)]
struct Times {
    second: Latency,
    all: Latency,
    last: Option<MonoTime>,
}

/// A simulated daemon: its client and its counts.
struct Node {
    handle: Handle,
    /// The times at which the messages were made that are not yet acknowledged or dropped, the oldest first.
    pending: RefCell<VecDeque<MonoTime>>,
    settled: Cell<u64>,
    times: Rc<RefCell<Times>>,
}

impl Node {
    fn is_up(&self) -> bool {
        self.handle.status().borrow().state == ClientState::Connected
    }

    /// Notes what the broker has acknowledged since the last call.
    fn note(&self) {
        let outbox = self.handle.stats().outbox;
        let settled = outbox.acked + outbox.drops.total();
        if settled == self.settled.get() {
            return;
        }
        let (now, mut times) = (MonoTime::now(), self.times.borrow_mut());
        let mut pending = self.pending.borrow_mut();
        for _ in self.settled.replace(settled)..settled {
            let Some(made) = pending.pop_front() else { return };
            times.last = Some(now);
            times.second.record(now.since(made));
            times.all.record(now.since(made));
        }
    }

    /// Runs the client. It receives PUBACKs when it is polled, so they are counted right after that.
    async fn serve(self: Rc<Self>, link: MqttClient) {
        let mut running = pin!(link.run());
        poll_fn(|context| {
            let polled = running.as_mut().poll(context);
            self.note();
            polled
        })
        .await;
    }

    /// Makes decisions at their times, `phase` after the start of each period, and metrics as the daemon does.
    async fn produce(self: Rc<Self>, mut producer: Producer, args: Args, phase: f64, until: Instant) {
        let period = Duration::from_secs_f64(if args.rate > 0.0 { 1.0 / args.rate } else { 0.0 });
        let mut next = Instant::now() + period.mul_f64(phase);
        let mut metrics_at = Instant::now() + METRICS_PERIOD.mul_f64(phase.max(0.1));
        while Instant::now() < until && (args.count == 0 || producer.seq < args.count) {
            if !period.is_zero() {
                sleep_until(next.min(until)).await;
                next += period;
            }
            let made = MonoTime::now();
            if producer.decide(made) {
                self.pending.borrow_mut().push_back(made);
            }
            if Instant::now() >= metrics_at {
                self.pending.borrow_mut().push_back(MonoTime::now());
                producer.metrics(METRICS_PERIOD);
                metrics_at += METRICS_PERIOD;
            }
            if !period.is_zero() || producer.seq.is_multiple_of(BATCH) || producer.seq == args.count {
                producer.publish_latency().await;
            }
        }
    }
}

fn settings(args: &Args, address: &Endpoint, name: &str) -> anyhow::Result<Settings> {
    let version = match args.version.as_str() {
        "5" => Version::Five,
        "3.1.1" => Version::Three,
        other => bail!("--version {other} is not offered; use 5 or 3.1.1"),
    };
    Ok(Settings {
        connect: ConnectOptions {
            endpoint: address.clone(),
            version,
            login: None,
            client_id: format!("edgewatt-{name}"),
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            max_qos: Qos::AtLeastOnce,
            retain: true,
            session: Session::default(),
        },
        status_topic: NodeTopics::new(&args.base_topic, name).status,
        drain_per_s: None,
        retry_min: Duration::from_millis(500),
        retry_max: Duration::from_secs(30),
        outbox: Limits {
            max_messages: 10_000,
            max_bytes: 8 << 20,
            max_stored_bytes: 0,
            max_age_ms: 72 * 3_600_000,
            max_payload_bytes: 256 * 1024,
            inflight: args.inflight,
            when_full: WhenFull::DropOldest,
        },
        max_retained_topics: 16,
    })
}

/// Starts the clients at their pace, and waits until all are connected or the time is over.
async fn connect(args: &Args, address: &Endpoint) -> anyhow::Result<(Vec<Rc<Node>>, Vec<Producer>)> {
    let (begun, mut nodes, mut producers) = (Instant::now(), Vec::new(), Vec::new());
    let (times, boot): (Rc<_>, Arc<str>) = (Rc::default(), boot_id()?.into());
    for place in 0..args.nodes {
        sleep_until(begun + Duration::from_secs_f64(f64::from(place) / args.connects_per_s)).await;
        let name = format!("{}-{place}", args.prefix);
        let link = MqttClient::new(settings(args, address, &name)?, |_, _| {})?;
        let (handle, times) = (link.handle(), Rc::clone(&times));
        producers.push(Producer::new(&name, args, handle.clone(), boot.clone()));
        let node = Rc::new(Node { handle, pending: RefCell::default(), settled: Cell::new(0), times });
        spawn_local(node.clone().serve(link));
        nodes.push(node);
    }
    let until = Instant::now() + Duration::from_secs_f64(args.connect_seconds);
    while Instant::now() < until && !nodes.iter().all(|node| node.is_up()) {
        sleep(Duration::from_millis(10)).await;
    }
    println!("{} of {} connected after {:.2} s", up(&nodes), nodes.len(), begun.elapsed().as_secs_f64());
    Ok((nodes, producers))
}

fn up(nodes: &[Rc<Node>]) -> usize {
    nodes.iter().filter(|node| node.is_up()).count()
}

fn acked(nodes: &[Rc<Node>]) -> u64 {
    nodes.iter().map(|node| node.handle.stats().outbox.acked).sum()
}

fn milliseconds(latency: &Latency) -> String {
    latency.summary().map_or_else(|| "-".into(), |s| format!("{:.2} / {:.2} ms", s.p50 / 1e3, s.p99 / 1e3))
}

async fn run(args: Args, address: Endpoint) -> anyhow::Result<()> {
    let (nodes, producers) = connect(&args, &address).await?;
    let times = nodes.first().map(|node| node.times.clone()).unwrap_or_default();
    let (begun, begun_at, cpu) = (Instant::now(), MonoTime::now(), process_cpu_time());
    let until = begun + Duration::from_secs_f64(args.seconds);
    let work: Vec<_> = producers
        .into_iter()
        .zip(&nodes)
        .enumerate()
        .map(|(place, (producer, node))| {
            let phase = place as f64 / nodes.len() as f64;
            spawn_local(node.clone().produce(producer, args.clone(), phase, until))
        })
        .collect();
    let (mut second, mut last) = (interval(Duration::from_secs(1)), 0);
    second.tick().await;
    let is_done = || work.iter().all(|task| task.is_finished()) && nodes.iter().all(|n| n.pending.borrow().is_empty());
    while !is_done() && Instant::now() < until + LATEST_ACK {
        tokio::select! {
            () = sleep(Duration::from_millis(2)) => {}
            _ = second.tick() => {
                let (now, waiting) = (acked(&nodes), nodes.iter().map(|n| n.pending.borrow().len()).sum::<usize>());
                let latency = milliseconds(&std::mem::take(&mut times.borrow_mut().second));
                println!("{:5.0} s  {} up, {} acknowledged, {waiting} wait, PUBACK p50 / p99 {latency}",
                    begun.elapsed().as_secs_f64(), up(&nodes), now - last);
                last = now;
            }
        }
    }
    let cpu_us = process_cpu_time().saturating_sub(cpu).as_secs_f64() * 1e6;
    report(acked(&nodes), &times.borrow(), begun_at, cpu_us);
    failures(&nodes);
    futures_util::future::join_all(nodes.iter().map(|node| node.handle.drain(Duration::from_secs(5)))).await;
    Ok(())
}

fn report(acked: u64, times: &Times, begun: MonoTime, cpu_us: f64) {
    let wall_s = times.last.unwrap_or(begun).since(begun).as_secs_f64().max(1e-9);
    println!(
        "in all  {acked} acknowledged, {:.0} a second, PUBACK p50 / p99 {}, CPU {:.2} us each",
        acked as f64 / wall_s,
        milliseconds(&times.all),
        cpu_us / acked.max(1) as f64
    );
}

/// Prints the errors, with the number of nodes that each affects.
fn failures(nodes: &[Rc<Node>]) {
    let mut errors: BTreeMap<String, u32> = BTreeMap::new();
    let (mut reconnects, mut resent, mut dropped, mut waiting) = (0, 0, 0, 0);
    for node in nodes {
        let stats = node.handle.stats();
        reconnects += stats.reconnects;
        resent += stats.outbox.resent;
        dropped += stats.outbox.drops.total() + stats.retained.drops.total();
        waiting += stats.outbox.queued + stats.outbox.in_flight;
        if let Some(error) = &node.handle.status().borrow().last_error {
            *errors.entry(error.to_string()).or_default() += 1;
        }
    }
    println!(
        "failures  {} down, {reconnects} reconnects, {resent} sent again, {dropped} dropped, {waiting} unacknowledged",
        nodes.len() - up(nodes)
    );
    errors.iter().for_each(|(error, count)| println!("  last error of {count}: {error}"));
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let Ok(Broker::At(address)) = parse_broker(&args.broker) else { bail!("{} is no broker", args.broker) };
    if args.nodes == 0 || args.rate < 0.0 || args.connects_per_s <= 0.0 {
        bail!("--nodes and --connects-per-s must be above zero, and --rate not below it");
    }
    // Each node needs a socket, and the shell's soft limit is often 1,024.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of open files")?;
    println!("{} nodes at {}; our limit of open files {soft}, raised to {hard}", args.nodes, args.broker);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, run(args, address))
}

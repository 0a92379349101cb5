//! The event loop: waits for whatever happens next, and has it handled. Runs on the async thread.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, Interval};

use super::event::DaemonEvent;
use super::state::{Daemon, Inputs, find};
use crate::publish::mqtt::Received;
use crate::publish::publisher::Drained;

/// How long decisions are held back until the outbox is checked again.
const HELD: Duration = Duration::from_millis(1);
/// How long decisions are encoded before anything else, such as a signal, has its turn again.
const TURN: Duration = Duration::from_millis(5);

impl Daemon {
    /// Runs until everything has ended, or until the daemon was stopped and what had arrived is decided or overdue.
    ///
    /// # Errors
    /// A second signal has ended the daemon at once.
    pub(crate) async fn run(&mut self, inputs: Inputs) -> anyhow::Result<()> {
        let Inputs { mut signals, mut events, mut received, mut actions } = inputs;
        let decisions = self.context.decisions.clone();
        let mut connection = self.delivery.as_ref().map(|delivery| delivery.handle.status());
        let mut store = self.delivery.as_ref().and_then(|delivery| delivery.handle.store_state());
        let mut left = Drained::Empty;
        loop {
            let deadline = self.phase.deadline();
            tokio::select! {
                client = changed(&mut connection) => self.connection_changed(&client),
                state = changed(&mut store) => self.store_changed(&state),
                () = decisions.notified() => {}
                () = tokio::time::sleep(HELD), if left == Drained::Held => {}
                () = std::future::ready(()), if left == Drained::More => {}
                () = reached(deadline) => if self.deadline_passed().is_break() {
                    return Ok(());
                },
                _ = self.timers.progress.tick() => self.check_progress(),
                _ = self.timers.metrics.tick() => self.publish_metrics().await,
                () = next(&mut self.timers.power) => self.publish_power(),
                Some(event) = events.recv() => self.handle(event).await,
                Some(message) = received.recv() => self.message_received(&message),
                Some(action) = actions.recv() => self.action_received(action),
                Some(signal) = signals.next() => self.signal_received(signal)?,
            }
            left = self.publish_decisions().await;
            self.reap().await;
            if self.is_done() {
                return Ok(());
            }
        }
    }

    async fn handle(&mut self, event: DaemonEvent) {
        let stopping = self.phase.is_stopping();
        let node_publisher = &self.context.node_publisher;
        match event {
            DaemonEvent::ThreadEnded(end) => {
                if let Some(pipeline) = find(&mut self.pipelines, end.pipeline) {
                    pipeline.thread_ended(node_publisher, end, stopping);
                }
            }
            DaemonEvent::Infer(id, event) => {
                if find(&mut self.pipelines, id).is_some_and(|pipeline| pipeline.infer_event(node_publisher, event)) {
                    self.publish_info();
                }
            }
            DaemonEvent::EngineReady(id, ready) => {
                if let Some(pipeline) = find(&mut self.pipelines, id) {
                    pipeline.engine_ready(node_publisher, *ready);
                }
            }
            DaemonEvent::ReleaseEngine(id, waiter) => {
                if let Some(pipeline) = find(&mut self.pipelines, id) {
                    pipeline.release_engine(waiter);
                }
            }
            DaemonEvent::Reloaded(cause, result) => self.reloaded(cause, *result).await,
        }
        self.inform_metering();
    }

    fn message_received(&mut self, message: &Received) {
        let node_publisher = &self.context.node_publisher;
        if let Some(discovery) = &mut self.discovery
            && discovery.message_received(node_publisher, &message.topic, &message.payload)
        {
            discovery.publish(node_publisher, &self.config, true);
        }
        if let Some(retained) = &mut self.retained {
            retained.message_received(node_publisher, &message.topic, &message.payload);
        }
        if let Some(verb) = message.topic.strip_prefix(&self.context.node_publisher.topics.commands())
            && self.command_limit.accept(Instant::now().into_std())
        {
            self.command_received(verb, message);
        }
    }

    /// Encodes what is decided, a batch of each pipeline in turn. Returns what is left.
    async fn publish_decisions(&mut self) -> Drained {
        let may_hold = !self.phase.is_overdue();
        let begun = Instant::now();
        loop {
            let (mut more, mut held) = (false, false);
            for pipeline in &mut self.pipelines {
                let drained = pipeline.publish_decisions(&self.context.node_publisher, may_hold);
                more |= drained == Drained::More;
                held |= drained == Drained::Held;
            }
            if !more {
                return if held { Drained::Held } else { Drained::Empty };
            }
            // The runtime looks for signals and sockets only when this task yields.
            tokio::task::yield_now().await;
            if begun.elapsed() >= TURN {
                return Drained::More;
            }
        }
    }
}

/// Completes at the next tick; never without an interval.
async fn next(tick: &mut Option<Interval>) {
    match tick {
        Some(tick) => drop(tick.tick().await),
        None => std::future::pending().await,
    }
}

/// Completes at that moment; never without one.
async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Returns the next state; waits without end if there is nothing to watch.
async fn changed<T: Clone>(state: &mut Option<watch::Receiver<T>>) -> T {
    if let Some(receiver) = state {
        match receiver.changed().await {
            Ok(()) => return receiver.borrow_and_update().clone(),
            // What it is the state of has ended.
            Err(_) => *state = None,
        }
    }
    std::future::pending().await
}

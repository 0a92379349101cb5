//! Feeds the frames of one chip, again and again after it was away. Runs on the acquire thread.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use super::chip::Chip;
use super::pace::{Due, Follower};
use super::{Bus, Connect, Ready, Registers};
use crate::source::layout::FieldLayout;
use crate::source::rate::{Clock, RateWatch};
use crate::source::session::{DEVICE_RETRY, keep_open};
use crate::source::{FrameProducer, FrameSink, SourceError};
use crate::stop::Waited;
use crate::units::MonoTime;

/// How often to compare a register, which a drop of the supply voltage resets.
const VERIFY_EVERY: Duration = Duration::from_secs(1);

/// A chip that says when it has a new frame is stuck if it has none for this long and for so many periods.
const SILENT_AFTER: Duration = Duration::from_secs(1);
const SILENT_PERIODS: u32 = 10;

/// A chip's own clock is off by up to a few percent.
const RATE_TOLERANCE: f64 = 0.1;

/// Reads one chip.
pub struct RegisterSource {
    connect: Box<dyn Connect>,
    registers: Registers,
    layout: FieldLayout,
}

impl RegisterSource {
    /// `registers` were checked.
    ///
    /// # Errors
    /// The layout is not valid.
    pub fn new(connect: Box<dyn Connect>, registers: Registers) -> Result<Self, SourceError> {
        let invalid = |(_, reason)| SourceError::Device { name: connect.name(), reason };
        let layout = registers.layout().map_err(invalid)?;
        Ok(Self { connect, registers, layout })
    }

    /// Sets the chip up and reads it, until a stop is requested.
    fn read(&self, bus: &mut dyn Bus, sink: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let mut chip = Chip::new(&*self.connect, bus, &self.registers);
        chip.identify()?;
        let stop = sink.stop();
        if !chip.set_up(|pause| wait(stop.sleep_until(MonoTime::now() + pause), &*self.connect))? {
            return Ok(ControlFlow::Break(()));
        }
        let mut reading = Reading::new(self, chip, MonoTime::now());
        match &self.registers.ready {
            Some(ready) => reading.when_ready(ready, sink),
            None => reading.by_clock(sink),
        }
    }
}

impl FrameProducer for RegisterSource {
    fn run(self: Box<Self>, sink: &mut FrameSink) -> Result<(), SourceError> {
        let name = self.connect.name();
        let open = || self.connect.open();
        keep_open(sink, &name, DEVICE_RETRY, false, open, |bus, sink| self.read(bus.as_mut(), sink))
    }
}

/// Returns whether to go on.
fn wait(waited: std::io::Result<Waited>, connect: &dyn Connect) -> Result<bool, SourceError> {
    let failed = |error| SourceError::io("wait for", Path::new(&connect.name()), error);
    Ok(waited.map_err(failed)? != Waited::Stopped)
}

/// A chip that was set up, and the buffers of a frame.
struct Reading<'a> {
    source: &'a RegisterSource,
    chip: Chip<'a>,
    bytes: Vec<u8>,
    values: Vec<f32>,
    verified: MonoTime,
}

impl<'a> Reading<'a> {
    fn new(source: &'a RegisterSource, chip: Chip<'a>, now: MonoTime) -> Self {
        let (bytes, channels) = (source.layout.bytes(), source.layout.channels());
        Self { source, chip, bytes: vec![0; bytes], values: vec![0.0; channels], verified: now }
    }

    /// Reads at the times of the clock, whatever the chip does.
    fn by_clock(&mut self, sink: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let mut clock = Clock::new(MonoTime::now(), self.source.registers.rate_hz);
        loop {
            if self.is_over(sink, clock.due())? {
                return Ok(ControlFlow::Break(()));
            }
            let missed = clock.read(MonoTime::now());
            if self.frame(None, missed, sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    /// Reads each frame that the chip says is there.
    fn when_ready(&mut self, ready: &Ready, sink: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let (period, now) = (self.source.registers.period(), MonoTime::now());
        let mut follower = Follower::new(now, period);
        let mut watch = RateWatch::new(self.source.registers.rate_hz, 1.0 - RATE_TOLERANCE, 1.0 + RATE_TOLERANCE);
        loop {
            if self.is_over(sink, follower.due())? {
                return Ok(ControlFlow::Break(()));
            }
            let begun = MonoTime::now();
            let is_there = self.chip.is_ready(ready)?;
            let now = MonoTime(begun.0.midpoint(MonoTime::now().0));
            let Some(Due { time, missed }) = follower.look(now, is_there) else {
                if follower.silent(now) >= SILENT_AFTER.max(period.saturating_mul(SILENT_PERIODS)) {
                    return Err(self.silent(ready, follower.silent(now)));
                }
                continue;
            };
            if self.frame(Some(time), missed, sink)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if let Some(wrong) = watch.add(1 + missed, now) {
                self.say_rate(wrong, sink);
            }
        }
    }

    /// Reads a frame and feeds it; from time to time, compares the chip's set-up. `time` is when the chip had it ready, if
    /// that is known, and `missed` the number of frames before it that were not read.
    fn frame(
        &mut self,
        time: Option<MonoTime>,
        missed: u64,
        sink: &mut FrameSink,
    ) -> Result<ControlFlow<()>, SourceError> {
        let begun = MonoTime::now();
        self.chip.read_frame(&mut self.bytes)?;
        let arrival = MonoTime::now();
        self.source.layout.decode(&self.bytes, &mut self.values);
        sink.missed(missed);
        // The registers have the values of one moment: when the chip had them ready, or else in the middle of the transfer.
        let time = time.unwrap_or(MonoTime(begun.0.midpoint(arrival.0)));
        let flow = sink.frames(&self.values, arrival, i64::try_from(time.0).ok());
        if arrival.since(self.verified) >= VERIFY_EVERY {
            self.verified = arrival;
            self.chip.verify()?;
        }
        Ok(flow)
    }

    /// Waits until then; returns whether a stop was requested.
    fn is_over(&self, sink: &mut FrameSink, until: MonoTime) -> Result<bool, SourceError> {
        sink.wake_reader();
        wait(sink.stop().sleep_until(until), &*self.source.connect).map(|goes_on| !goes_on)
    }

    fn silent(&self, ready: &Ready, silent: Duration) -> SourceError {
        let Ready { register, mask } = ready;
        self.chip.error(format!(
            "the bits {mask:#04x} of register {register:#04x} showed no new frame for {:.1} s: the chip sleeps or hangs; \
             check init and ready, or its supply",
            silent.as_secs_f64()
        ))
    }

    fn say_rate(&self, wrong: Option<f64>, sink: &FrameSink) {
        sink.trouble(wrong.map(|found| {
            let (name, rate_hz) = (self.source.connect.name(), self.source.registers.rate_hz);
            format!("{name}: the chip gives {found:.1} frames a second, and rate_hz is {rate_hz}; one of init and rate_hz is wrong")
        }));
    }
}

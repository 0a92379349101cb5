//! Reads an IIO device one number at a time: each is a transaction on the device's bus.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::plan::{Input, Plan, raw_file};
use crate::source::polling::{Missed, poll};
use crate::source::{FrameSink, SourceError};
use crate::sys::attribute::Attribute;
use crate::sys::iio::Device;

/// The open files of the channels.
pub(super) struct PollReader {
    name: String,
    rate_hz: f64,
    plan: Plan,
    /// For each input of the plan.
    files: Vec<Attribute>,
    inputs: Vec<f64>,
    width: usize,
    /// Whether the buffer is on, if that is to end the polling.
    buffer: Option<Attribute>,
}

/// What a program that reads one number at a time is told while a buffer is on.
pub(super) const BUFFER_IS_ON: &str = "its buffer is on, and while it is, most drivers let nothing be read one number at a \
                                       time; to switch it off, run: sudo edgewatt setup-sensors";

impl PollReader {
    /// Opens the files. With `until_buffer`, the reading ends when somebody switches the buffer on.
    ///
    /// # Errors
    /// A file cannot be opened; says which.
    pub(super) fn open(
        device: &Device,
        plan: Plan,
        (rate_hz, width): (f64, usize),
        until_buffer: bool,
    ) -> Result<Self, String> {
        let name = format!("{} ({})", device.name, device.node);
        let open = |input: &Input| {
            let file = raw_file(device, &input.channel)
                .ok_or_else(|| format!("{} can be read from the buffer only, which is not set up", input.channel))?;
            let path = device.folder.join(file);
            Attribute::open(path.clone()).map_err(|error| format!("cannot open {}: {error}", path.display()))
        };
        let files = plan.inputs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let inputs = vec![0.0; files.len()];
        let enable: PathBuf = device.folder.join("buffer/enable");
        let buffer = if until_buffer { Attribute::open(enable).ok() } else { None };
        // One that is on already does not end it.
        let buffer = buffer.filter(|enable| enable.read::<u8>().is_ok_and(|on| on == 0));
        Ok(Self { name, rate_hz, plan, files, inputs, width, buffer })
    }

    /// Reads one sample.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn sample(&mut self, frame: &mut [f32]) -> Result<(), Missed> {
        sample(&self.files, &self.plan, &mut self.inputs, frame)
    }

    /// Reads until a stop or a failure.
    ///
    /// # Errors
    /// The device is gone, gives nothing to be used, or its buffer is on now.
    pub(super) fn read(&mut self, sink: &mut FrameSink) -> Result<ControlFlow<()>, SourceError> {
        let Self { name, rate_hz, plan, files, inputs, width, buffer } = self;
        let check = || match buffer {
            Some(enable) if enable.read::<u8>().is_ok_and(|on| on == 1) => Err(SourceError::Device {
                name: name.clone(),
                reason: "its buffer is on now, and is read instead".into(),
            }),
            _ => Ok(()),
        };
        poll(sink, name, (*rate_hz, *width), |frame| sample(files, plan, inputs, frame), check)
    }
}

fn sample(files: &[Attribute], plan: &Plan, inputs: &mut [f64], frame: &mut [f32]) -> Result<(), Missed> {
    for ((value, file), input) in inputs.iter_mut().zip(files).zip(&plan.inputs) {
        let part = input.part.unwrap_or(0);
        let number = |text: &str| {
            let mut numbers = text.split_ascii_whitespace();
            let number = numbers.nth(part)?.parse::<f64>().ok().filter(|number| number.is_finite());
            // One number of several is not the channel.
            number.filter(|_| input.part.is_some() || numbers.next().is_none())
        };
        *value = input.value(file.read_with(number).map_err(|error| missed(file, error))?);
    }
    plan.mix(inputs, frame);
    Ok(())
}

fn missed(file: &Attribute, error: crate::sys::attribute::ReadError) -> Missed {
    match error {
        crate::sys::attribute::ReadError::Io(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
            Missed::Failed(format!("{}: {BUFFER_IS_ON}", file.path().display()))
        }
        error => Missed::of(file.path(), error),
    }
}

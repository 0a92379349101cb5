//! ALSA's C library, libasound, which is loaded when a sound card is first used, and a PCM of it.
//!
//! Owns every call into C. The facts come from alsa-lib's public headers (`alsa/pcm.h`, `alsa/error.h`), version 1.2.
//! So building needs no headers of it, and a program that uses no sound card starts without it.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_long, c_short, c_uint, c_ulong, c_ushort, c_void};
use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::null_mut;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::libc::pollfd;
use nix::poll::{PollFd, PollFlags};

use super::format::SampleFormat;
use crate::stop::{Stop, Waited};
use crate::sys::symbols::{self, functions};
use crate::units::MonoTime;

const FILE: &str = "libasound.so.2";
const CAPTURE: c_int = 1;
const NONBLOCK: c_int = 1;
const RW_INTERLEAVED: c_int = 3;
const TIMESTAMPS_ON: c_int = 1;
const TIMESTAMPS_MONOTONIC: c_int = 1;
/// [`Stop::wait`] waits for so many at most; a card has one.
const MOST_DESCRIPTORS: usize = 8;
/// Sample rates that sound cards have.
const RATES: [u32; 11] = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000];

#[repr(C)]
pub(super) struct RawPcm {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(super) struct RawHwParams {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(super) struct RawSwParams {
    _opaque: [u8; 0],
}

/// A `struct timespec` of 8 or of 16 bytes: on 32-bit Arm it depends on how the distribution built the library.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp([u32; 4]);

impl Stamp {
    const UNTOUCHED: u32 = u32::MAX;

    fn new() -> Self {
        Self([0, 0, Self::UNTOUCHED, Self::UNTOUCHED])
    }

    /// Returns the time, unless it is zero.
    fn time(self) -> Option<MonoTime> {
        let [a, b, c, d] = self.0.map(u64::from);
        let is_short = [self.0[2], self.0[3]] == [Self::UNTOUCHED; 2];
        // All systems that edgewatt is built for store the low half first. The upper half of the nanoseconds is zero, or
        // padding.
        let (seconds, nanos) = if is_short {
            (a, b)
        } else {
            (a | b << 32, c | if cfg!(target_pointer_width = "64") { d << 32 } else { 0 })
        };
        let time = seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?;
        (time > 0 && nanos < 1_000_000_000).then_some(MonoTime(time))
    }
}

/// What the library calls with a message for people. It has more arguments, for which the message has places; they are not
/// read. In the calling conventions of x86-64 and Arm, a function may ignore arguments.
type ErrorHandler = unsafe extern "C" fn(*const c_char, c_int, *const c_char, c_int, *const c_char);

functions! {
    /// The functions of libasound that capture from a PCM.
    Functions {
        set_error_handler: snd_lib_error_set_handler(Option<ErrorHandler>) -> c_int;
        open: snd_pcm_open(*mut *mut RawPcm, *const c_char, c_int, c_int) -> c_int;
        close: snd_pcm_close(*mut RawPcm) -> c_int;
        hw_malloc: snd_pcm_hw_params_malloc(*mut *mut RawHwParams) -> c_int;
        hw_free: snd_pcm_hw_params_free(*mut RawHwParams);
        hw_any: snd_pcm_hw_params_any(*mut RawPcm, *mut RawHwParams) -> c_int;
        hw_set_access: snd_pcm_hw_params_set_access(*mut RawPcm, *mut RawHwParams, c_int) -> c_int;
        hw_test_format: snd_pcm_hw_params_test_format(*mut RawPcm, *mut RawHwParams, c_int) -> c_int;
        hw_set_format: snd_pcm_hw_params_set_format(*mut RawPcm, *mut RawHwParams, c_int) -> c_int;
        hw_set_channels: snd_pcm_hw_params_set_channels(*mut RawPcm, *mut RawHwParams, c_uint) -> c_int;
        hw_channels_min: snd_pcm_hw_params_get_channels_min(*const RawHwParams, *mut c_uint) -> c_int;
        hw_channels_max: snd_pcm_hw_params_get_channels_max(*const RawHwParams, *mut c_uint) -> c_int;
        hw_test_rate: snd_pcm_hw_params_test_rate(*mut RawPcm, *mut RawHwParams, c_uint, c_int) -> c_int;
        hw_set_rate: snd_pcm_hw_params_set_rate(*mut RawPcm, *mut RawHwParams, c_uint, c_int) -> c_int;
        hw_rate_min: snd_pcm_hw_params_get_rate_min(*const RawHwParams, *mut c_uint, *mut c_int) -> c_int;
        hw_rate_max: snd_pcm_hw_params_get_rate_max(*const RawHwParams, *mut c_uint, *mut c_int) -> c_int;
        hw_set_period_near: snd_pcm_hw_params_set_period_size_near(*mut RawPcm, *mut RawHwParams, *mut c_ulong, *mut c_int) -> c_int;
        hw_set_buffer_near: snd_pcm_hw_params_set_buffer_size_near(*mut RawPcm, *mut RawHwParams, *mut c_ulong) -> c_int;
        hw_period: snd_pcm_hw_params_get_period_size(*const RawHwParams, *mut c_ulong, *mut c_int) -> c_int;
        hw_buffer: snd_pcm_hw_params_get_buffer_size(*const RawHwParams, *mut c_ulong) -> c_int;
        hw_real_bits: snd_pcm_hw_params_get_sbits(*const RawHwParams) -> c_int;
        hw_install: snd_pcm_hw_params(*mut RawPcm, *mut RawHwParams) -> c_int;
        sw_malloc: snd_pcm_sw_params_malloc(*mut *mut RawSwParams) -> c_int;
        sw_free: snd_pcm_sw_params_free(*mut RawSwParams);
        sw_current: snd_pcm_sw_params_current(*mut RawPcm, *mut RawSwParams) -> c_int;
        sw_set_avail_min: snd_pcm_sw_params_set_avail_min(*mut RawPcm, *mut RawSwParams, c_ulong) -> c_int;
        sw_set_timestamps: snd_pcm_sw_params_set_tstamp_mode(*mut RawPcm, *mut RawSwParams, c_int) -> c_int;
        sw_set_clock: snd_pcm_sw_params_set_tstamp_type(*mut RawPcm, *mut RawSwParams, c_int) -> c_int;
        sw_install: snd_pcm_sw_params(*mut RawPcm, *mut RawSwParams) -> c_int;
        prepare: snd_pcm_prepare(*mut RawPcm) -> c_int;
        start: snd_pcm_start(*mut RawPcm) -> c_int;
        resume: snd_pcm_resume(*mut RawPcm) -> c_int;
        timestamp: snd_pcm_htimestamp(*mut RawPcm, *mut c_ulong, *mut Stamp) -> c_int;
        read: snd_pcm_readi(*mut RawPcm, *mut c_void, c_ulong) -> c_long;
        descriptors_count: snd_pcm_poll_descriptors_count(*mut RawPcm) -> c_int;
        descriptors: snd_pcm_poll_descriptors(*mut RawPcm, *mut pollfd, c_uint) -> c_int;
        descriptors_events: snd_pcm_poll_descriptors_revents(*mut RawPcm, *mut pollfd, c_uint, *mut c_ushort) -> c_int;
    }
}

/// The library would write to standard error; the status that it returns says the same.
unsafe extern "C" fn keep_quiet(_: *const c_char, _: c_int, _: *const c_char, _: c_int, _: *const c_char) {}

/// The loaded library, which is never unloaded.
#[derive(Clone, Copy)]
pub(super) struct Alsa(&'static Functions);

impl Alsa {
    /// Loads the library the first time; what went wrong then stays.
    pub(super) fn load() -> Result<Self, String> {
        static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
        let load = || {
            // SAFETY: the library's constructors do nothing but set it up.
            let library = unsafe { symbols::load(FILE) }.map_err(|_| format!("{FILE} cannot be loaded"))?;
            // SAFETY: the functions have these types by the headers of libasound.so.2, and the library is never unloaded.
            let functions = unsafe { Functions::load(library) }.map_err(|error| format!("{FILE}: {error}"))?;
            // SAFETY: the handler reads none of its arguments, and lives as long as the program.
            unsafe { (functions.set_error_handler)(Some(keep_quiet)) };
            Ok(functions)
        };
        LOADED.get_or_init(load).as_ref().map(Self).map_err(Clone::clone)
    }
}

/// Returns what a call returned, unless it is an error.
fn ok(status: c_int) -> Result<c_int, Errno> {
    if status < 0 { Err(Errno::from_raw(-status)) } else { Ok(status) }
}

/// What a card can record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offers {
    pub formats: Vec<SampleFormat>,
    pub channels: (u32, u32),
    /// The lowest and the highest rate, and the usual ones.
    pub rates: (u32, u32),
    pub usual_rates: Vec<u32>,
}

/// How a card is to record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wanted {
    /// `None`: the first of [`SampleFormat::ALL`] that the card has.
    pub format: Option<SampleFormat>,
    pub channels: u32,
    pub rate_hz: u32,
    pub period_frames: usize,
    pub buffer_frames: usize,
}

/// How a card records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setup {
    pub format: SampleFormat,
    /// The bits of a sample that are not always zero.
    pub real_bits: u32,
    pub period_frames: usize,
    pub buffer_frames: usize,
}

/// Why a card does not record as it is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Format,
    Channels,
    Rate,
    Other(Errno),
}

/// Parameters that are being chosen.
struct HwParams<'a> {
    alsa: Alsa,
    pcm: *mut RawPcm,
    handle: *mut RawHwParams,
    lifetime: PhantomData<&'a Pcm>,
}

impl<'a> HwParams<'a> {
    /// Everything that the card can do by reads of whole frames.
    fn any(pcm: &'a Pcm) -> Result<Self, Errno> {
        let mut handle = null_mut();
        // SAFETY: the call stores a handle where it may.
        ok(unsafe { (pcm.alsa.0.hw_malloc)(&raw mut handle) })?;
        let params = Self { alsa: pcm.alsa, pcm: pcm.handle, handle, lifetime: PhantomData };
        params.call(pcm.alsa.0.hw_any)?;
        // SAFETY: both handles are alive.
        ok(unsafe { (pcm.alsa.0.hw_set_access)(params.pcm, params.handle, RW_INTERLEAVED) })?;
        Ok(params)
    }

    fn call(&self, function: unsafe extern "C" fn(*mut RawPcm, *mut RawHwParams) -> c_int) -> Result<c_int, Errno> {
        // SAFETY: both handles are alive; all functions of this type only use them.
        ok(unsafe { function(self.pcm, self.handle) })
    }

    fn offers(&self) -> Result<Offers, Errno> {
        let functions = self.alsa.0;
        let (mut channels, mut rates, mut direction) = ((0, 0), (0, 0), 0);
        // SAFETY: the handle is alive, and each call stores one number of its type where it may.
        unsafe {
            ok((functions.hw_channels_min)(self.handle, &raw mut channels.0))?;
            ok((functions.hw_channels_max)(self.handle, &raw mut channels.1))?;
            ok((functions.hw_rate_min)(self.handle, &raw mut rates.0, &raw mut direction))?;
            ok((functions.hw_rate_max)(self.handle, &raw mut rates.1, &raw mut direction))?;
        }
        // SAFETY: both handles are alive.
        let has_rate = |rate: &u32| unsafe { (functions.hw_test_rate)(self.pcm, self.handle, *rate, 0) } == 0;
        let usual_rates = RATES.into_iter().filter(has_rate).collect();
        let formats = SampleFormat::ALL.into_iter().filter(|format| self.has(*format)).collect();
        Ok(Offers { formats, channels, rates, usual_rates })
    }

    fn has(&self, format: SampleFormat) -> bool {
        // SAFETY: both handles are alive.
        unsafe { (self.alsa.0.hw_test_format)(self.pcm, self.handle, format.number()) == 0 }
    }

    fn install(self, wanted: &Wanted) -> Result<Setup, Refusal> {
        let functions = self.alsa.0;
        let mut formats = SampleFormat::ALL.into_iter();
        let format = match wanted.format {
            Some(format) => format,
            None => formats.find(|format| self.has(*format)).ok_or(Refusal::Format)?,
        };
        let (mut period, mut buffer) = (wanted.period_frames as c_ulong, wanted.buffer_frames as c_ulong);
        let mut direction = 0;
        // SAFETY: both handles are alive, and what the calls store has its type and place.
        unsafe {
            ok((functions.hw_set_format)(self.pcm, self.handle, format.number())).map_err(|_| Refusal::Format)?;
            ok((functions.hw_set_channels)(self.pcm, self.handle, wanted.channels)).map_err(|_| Refusal::Channels)?;
            ok((functions.hw_set_rate)(self.pcm, self.handle, wanted.rate_hz, 0)).map_err(|_| Refusal::Rate)?;
            ok((functions.hw_set_period_near)(self.pcm, self.handle, &raw mut period, &raw mut direction))
                .map_err(Refusal::Other)?;
            ok((functions.hw_set_buffer_near)(self.pcm, self.handle, &raw mut buffer)).map_err(Refusal::Other)?;
        }
        self.call(functions.hw_install).map_err(Refusal::Other)?;
        // SAFETY: as above.
        let bits = unsafe {
            ok((functions.hw_period)(self.handle, &raw mut period, &raw mut direction)).map_err(Refusal::Other)?;
            ok((functions.hw_buffer)(self.handle, &raw mut buffer)).map_err(Refusal::Other)?;
            (functions.hw_real_bits)(self.handle)
        };
        let real_bits = u32::try_from(bits).ok().filter(|bits| (1..=format.bits()).contains(bits));
        Ok(Setup {
            format,
            real_bits: real_bits.unwrap_or(format.bits()),
            period_frames: (period as usize).max(1),
            buffer_frames: (buffer as usize).max(1),
        })
    }
}

impl Drop for HwParams<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is alive and its own.
        unsafe { (self.alsa.0.hw_free)(self.handle) }
    }
}

/// An open PCM that captures. Used by one thread.
pub(super) struct Pcm {
    alsa: Alsa,
    handle: *mut RawPcm,
    /// 0 until it is set up.
    frame_bytes: usize,
    descriptors: Vec<pollfd>,
}

impl Pcm {
    /// Opens the PCM of that name; no later call waits.
    pub(super) fn open(alsa: Alsa, name: &str) -> Result<Self, Errno> {
        let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        let mut handle = null_mut();
        // SAFETY: the name lives until the call returns, which stores a handle where it may.
        ok(unsafe { (alsa.0.open)(&raw mut handle, name.as_ptr(), CAPTURE, NONBLOCK) })?;
        Ok(Self { alsa, handle, frame_bytes: 0, descriptors: Vec::new() })
    }

    pub(super) fn offers(&self) -> Result<Offers, Errno> {
        HwParams::any(self)?.offers()
    }

    /// Sets the card up. What it refuses is in [`Pcm::offers`].
    pub(super) fn set_up(&mut self, wanted: &Wanted) -> Result<Setup, Refusal> {
        let setup = HwParams::any(self).map_err(Refusal::Other)?.install(wanted)?;
        self.set_software(setup.period_frames).map_err(Refusal::Other)?;
        self.frame_bytes = setup.format.bytes().saturating_mul(wanted.channels as usize);
        self.descriptors = self.find_descriptors().map_err(Refusal::Other)?;
        Ok(setup)
    }

    /// Wakes this thread for whole periods, and has the kernel note when each was complete.
    fn set_software(&self, period_frames: usize) -> Result<(), Errno> {
        let (functions, mut params) = (self.alsa.0, null_mut());
        // SAFETY: the call stores a handle where it may.
        ok(unsafe { (functions.sw_malloc)(&raw mut params) })?;
        // SAFETY: both handles are alive.
        let set = || unsafe {
            ok((functions.sw_current)(self.handle, params))?;
            ok((functions.sw_set_avail_min)(self.handle, params, period_frames as c_ulong))?;
            // Without them, the time at which a period is read has to do.
            let _ = (functions.sw_set_timestamps)(self.handle, params, TIMESTAMPS_ON);
            let _ = (functions.sw_set_clock)(self.handle, params, TIMESTAMPS_MONOTONIC);
            ok((functions.sw_install)(self.handle, params))
        };
        let result = set();
        // SAFETY: the handle is alive, and not used any more.
        unsafe { (functions.sw_free)(params) };
        result.map(drop)
    }

    fn find_descriptors(&self) -> Result<Vec<pollfd>, Errno> {
        // SAFETY: the PCM is alive.
        let count = ok(unsafe { (self.alsa.0.descriptors_count)(self.handle) })?;
        let count = usize::try_from(count).ok().filter(|count| (1..=MOST_DESCRIPTORS).contains(count));
        let mut descriptors = vec![pollfd { fd: -1, events: 0, revents: 0 }; count.ok_or(Errno::ENOTSUP)?];
        // SAFETY: the call stores as many as there is room for.
        let stored = ok(unsafe {
            (self.alsa.0.descriptors)(self.handle, descriptors.as_mut_ptr(), descriptors.len() as c_uint)
        })?;
        descriptors.truncate(usize::try_from(stored).unwrap_or(0));
        if descriptors.is_empty() { Err(Errno::ENOTSUP) } else { Ok(descriptors) }
    }

    fn call(&self, function: unsafe extern "C" fn(*mut RawPcm) -> c_int) -> Result<(), Errno> {
        // SAFETY: the PCM is alive; all functions of this type only use it.
        ok(unsafe { function(self.handle) }).map(drop)
    }

    /// Starts the stream, also again after it has stopped.
    pub(super) fn start(&self) -> Result<(), Errno> {
        self.call(self.alsa.0.prepare)?;
        self.call(self.alsa.0.start)
    }

    /// Continues after a suspend. `EAGAIN`: not yet; `ENOSYS`: start it again.
    pub(super) fn resume(&self) -> Result<(), Errno> {
        self.call(self.alsa.0.resume)
    }

    /// Waits until a period can be read or something has happened, a stop is requested, or `until` has come.
    pub(super) fn wait(&mut self, stop: &Stop, until: MonoTime) -> io::Result<Waited> {
        let descriptor = |index: usize| self.descriptors.get(index).or(self.descriptors.first());
        let Some(first) = descriptor(0).copied() else { return Err(Errno::EBADFD.into()) };
        let mut polled: [PollFd<'_>; MOST_DESCRIPTORS] = std::array::from_fn(|index| {
            let descriptor = descriptor(index).copied().unwrap_or(first);
            // SAFETY: the PCM owns the file, and stays open until this function has returned.
            let fd = unsafe { BorrowedFd::borrow_raw(descriptor.fd) };
            PollFd::new(fd, PollFlags::from_bits_truncate(descriptor.events))
        });
        let polled = polled.get_mut(..self.descriptors.len()).unwrap_or_default();
        let waited = stop.wait(polled, Some(until))?;
        for (descriptor, polled) in self.descriptors.iter_mut().zip(polled) {
            descriptor.revents = polled.revents().map_or(PollFlags::POLLIN.bits(), |events| events.bits() as c_short);
        }
        if waited == Waited::Ready {
            let mut events = 0;
            // A plugin clears its own events here; what they mean is what the next read returns.
            // SAFETY: as many descriptors as stated, with a number after them.
            let _ = unsafe {
                let count = self.descriptors.len() as c_uint;
                (self.alsa.0.descriptors_events)(self.handle, self.descriptors.as_mut_ptr(), count, &raw mut events)
            };
        }
        Ok(waited)
    }

    /// Returns how many frames could be read, and when the last of them was complete, if the kernel says so.
    pub(super) fn available(&self) -> Option<(u64, Option<MonoTime>)> {
        let (mut frames, mut stamp) = (0, Stamp::new());
        // SAFETY: the PCM is alive, and the call stores a number and a time, for the longer form of which there is room.
        ok(unsafe { (self.alsa.0.timestamp)(self.handle, &raw mut frames, &raw mut stamp) }).ok()?;
        Some((frames as usize as u64, stamp.time()))
    }

    /// Reads as many frames as there are and `block` has room for. Returns their number.
    pub(super) fn read(&self, block: &mut [u8]) -> Result<usize, Errno> {
        let frames = block.len().checked_div(self.frame_bytes).ok_or(Errno::EBADFD)?;
        // SAFETY: so many whole frames fit into the block.
        let read = unsafe { (self.alsa.0.read)(self.handle, block.as_mut_ptr().cast(), frames as c_ulong) };
        usize::try_from(read).map_err(|_| Errno::from_raw(c_int::try_from(-read).unwrap_or(0)))
    }
}

impl Drop for Pcm {
    fn drop(&mut self) {
        // SAFETY: the handle is alive and its own; nothing that hangs on it lives longer.
        unsafe { (self.alsa.0.close)(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_either_size() {
        assert_eq!(Stamp::new().time(), None, "no time");
        assert_eq!(Stamp([3, 7, u32::MAX, u32::MAX]).time(), Some(MonoTime(3_000_000_007)));
        assert_eq!(Stamp([3, 0, 7, 0]).time(), Some(MonoTime(3_000_000_007)));
        assert_eq!(Stamp([0, 1, 0, 0]).time(), Some(MonoTime((1 << 32) * 1_000_000_000)));
        assert_eq!(Stamp([3, 2_000_000_000, u32::MAX, u32::MAX]).time(), None, "not a time");
    }
}

//! Memory that two processes share: a file without a name and with a sealed size, mapped by both.
//!
//! Owns the mapping and its bounds. Leaves to the processes who writes where and when: see `engine::process`.

#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use nix::fcntl::{FcntlArg, SealFlag, fcntl, posix_fallocate};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// Without these seals the other process could shorten the file, and reading its end would kill this process (SIGBUS).
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// A mapping of the whole file.
pub struct Shared {
    start: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: the mapping does not belong to a particular thread.
unsafe impl Send for Shared {}

/// An empty file that can be passed to another process before its size is known.
pub fn file() -> io::Result<OwnedFd> {
    Ok(memfd_create("edgewatt", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?)
}

impl Shared {
    /// Sets the final size of the file, filled with zeros, and maps it.
    pub fn create(file: &OwnedFd, len: NonZeroUsize) -> io::Result<Self> {
        let size = libc::off_t::try_from(len.get()).map_err(io::Error::other)?;
        ftruncate(file, size)?;
        // Allocates now, so that a lack of memory is an error here and not a SIGBUS at the first access.
        posix_fallocate(file, 0, size)?;
        fcntl(file, FcntlArg::F_ADD_SEALS(SEALS))?;
        Self::open(file, len)
    }

    /// Maps a file of that size which another process has created.
    pub fn open(file: &OwnedFd, len: NonZeroUsize) -> io::Result<Self> {
        let seals = SealFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SEALS) || usize::try_from(fstat(file)?.st_size) != Ok(len.get()) {
            return Err(io::Error::other("the shared memory is not sealed, or not of the size that was agreed on"));
        }
        // SAFETY: a new mapping over nothing else, of a file whose size can no longer change.
        let start = unsafe {
            mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, file.as_fd(), 0)?
        };
        Ok(Self { start: start.cast(), len })
    }

    /// Returns word `index` of the memory.
    pub fn word(&self, index: usize) -> &AtomicU32 {
        let at = index * size_of::<AtomicU32>();
        self.check(&(at..at + size_of::<AtomicU32>()));
        // SAFETY: within the mapping, which starts at a page and so is aligned, and lives as long as `self`; any bits
        // are a number.
        unsafe { self.start.add(at).cast().as_ref() }
    }

    pub fn bytes(&self, place: Range<usize>) -> &[u8] {
        self.check(&place);
        // SAFETY: within the mapping, and any bits are valid bytes. The other process writes here only when it is its turn;
        // if it did so at another time, values would be wrong, but none of them is used as an index.
        unsafe { std::slice::from_raw_parts(self.start.add(place.start).as_ptr(), place.len()) }
    }

    pub fn bytes_mut(&mut self, place: Range<usize>) -> &mut [u8] {
        self.check(&place);
        // SAFETY: as above, and no other code of this process has access while `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(place.start).as_ptr(), place.len()) }
    }

    fn check(&self, place: &Range<usize>) {
        assert!(place.start <= place.end && place.end <= self.len.get(), "{place:?} of {} shared bytes", self.len);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `open`, and nothing borrows from it any more. An error has no effect.
        let _ = unsafe { munmap(self.start.cast(), self.len.get()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    const LEN: NonZeroUsize = NonZeroUsize::new(5000).unwrap();

    #[test]
    fn what_one_writes_the_other_reads() {
        let file = file().unwrap();
        let mut ours = Shared::create(&file, LEN).unwrap();
        let theirs = Shared::open(&file, LEN).unwrap();
        assert!(theirs.bytes(0..5000).iter().all(|byte| *byte == 0));
        ours.word(2).store(u32::from_ne_bytes(*b"word"), Relaxed);
        ours.bytes_mut(4997..5000).copy_from_slice(b"end");
        assert_eq!((theirs.bytes(8..12), theirs.bytes(4997..5000)), (&b"word"[..], &b"end"[..]));
    }

    #[test]
    fn the_size_can_no_longer_change_and_is_checked() {
        let file = file().unwrap();
        assert!(Shared::open(&file, LEN).is_err(), "not sealed");
        let _shared = Shared::create(&file, LEN).unwrap();
        assert!(ftruncate(&file, 0).is_err() && ftruncate(&file, 8192).is_err());
        assert!(Shared::open(&file, LEN.saturating_add(1)).is_err(), "longer than the file");
        assert!(Shared::create(&file, LEN.saturating_add(1)).is_err(), "sealed by now");
    }

    #[test]
    #[should_panic(expected = "of 5000 shared bytes")]
    fn nothing_beyond_its_end_can_be_reached() {
        Shared::create(&file().unwrap(), LEN).unwrap().bytes(4990..5001);
    }
}

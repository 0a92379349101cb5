//! Memory that two processes share: a file without a name and with a sealed size, mapped by both.
//!
//! Owns the mapping and its bounds. Leaves to the processes who writes where and when: see `engine::process`. The other
//! process may write at any time, so the memory is only copied from and to, by atomic accesses: there is never a reference
//! to bytes that may change.

#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize};

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

    /// Copies the memory from `start` on to `bytes`.
    pub fn read(&self, start: usize, bytes: &mut [u8]) {
        let (head, words, tail) = self.cells(start..start + bytes.len());
        let (first, rest) = bytes.split_at_mut(head.len());
        let (middle, last) = rest.split_at_mut(size_of_val(words));
        let single = first.iter_mut().zip(head).chain(last.iter_mut().zip(tail));
        single.for_each(|(byte, cell)| *byte = cell.load(Relaxed));
        let (pieces, _) = middle.as_chunks_mut();
        pieces.iter_mut().zip(words).for_each(|(piece, word)| *piece = word.load(Relaxed).to_ne_bytes());
    }

    /// Copies `bytes` to the memory from `start` on.
    pub fn write(&self, start: usize, bytes: &[u8]) {
        let (head, words, tail) = self.cells(start..start + bytes.len());
        let (first, rest) = bytes.split_at(head.len());
        let (middle, last) = rest.split_at(size_of_val(words));
        let single = first.iter().zip(head).chain(last.iter().zip(tail));
        single.for_each(|(byte, cell)| cell.store(*byte, Relaxed));
        let (pieces, _) = middle.as_chunks();
        pieces.iter().zip(words).for_each(|(piece, word)| word.store(usize::from_ne_bytes(*piece), Relaxed));
    }

    /// Returns the memory there as whole words, and the bytes before and after them.
    fn cells(&self, place: Range<usize>) -> (&[AtomicU8], &[AtomicUsize], &[AtomicU8]) {
        self.check(&place);
        // SAFETY: within the mapping, which lives as long as `self`; any bits are a number, and all accesses are atomic.
        let bytes: &[AtomicU8] =
            unsafe { std::slice::from_raw_parts(self.start.add(place.start).cast().as_ptr(), place.len()) };
        // SAFETY: the same memory, as words where it is aligned for them.
        unsafe { bytes.align_to() }
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
    use super::*;

    const LEN: NonZeroUsize = NonZeroUsize::new(5000).unwrap();

    #[test]
    fn what_one_writes_the_other_reads() {
        let file = file().unwrap();
        let ours = Shared::create(&file, LEN).unwrap();
        let theirs = Shared::open(&file, LEN).unwrap();
        let read = |place: Range<usize>| {
            let mut bytes = vec![7; place.len()];
            theirs.read(place.start, &mut bytes);
            bytes
        };
        assert!(read(0..5000).iter().all(|byte| *byte == 0));
        ours.word(2).store(u32::from_ne_bytes(*b"word"), Relaxed);
        ours.write(4997, b"end");
        assert_eq!((&read(8..12)[..], &read(4997..5000)[..]), (&b"word"[..], &b"end"[..]));
        // From and to any place, with any number of bytes before and after the whole words.
        let bytes: Vec<u8> = (1..=60).collect();
        for (start, end) in (0..20).flat_map(|start| (start..60).map(move |end| (start, end))) {
            ours.write(0, &[0; 64]);
            ours.write(start, &bytes[start..end]);
            assert_eq!(read(start..end), bytes[start..end]);
            let around = [read(0..start), read(end..64)].concat();
            assert!(around.iter().all(|byte| *byte == 0), "{start}..{end}: {around:?}");
        }
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
        Shared::create(&file().unwrap(), LEN).unwrap().read(4990, &mut [0; 11]);
    }
}

//! Whether what stands in the way of a start may pass by itself.
//!
//! Causes come as text: from the process that tries a model, from the loader of libraries, through many layers. So they
//! are found in the text, in which the errors of the system have a fixed form.

use std::io;

use nix::errno::Errno;

/// What stands in the way of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// The machine lacks memory, processes, file descriptors or the like at present.
    Machine,
    /// A file or a device is not there, or is busy. It may come: a disk is mounted, a device is plugged in.
    Absent,
    /// It stays until the configuration, or a file that it names, is changed.
    Lasting,
}

const OF_MACHINE: [Errno; 8] = [
    Errno::EAGAIN,
    Errno::EINTR,
    Errno::EIO,
    Errno::EMFILE,
    Errno::ENFILE,
    Errno::ENOBUFS,
    Errno::ENOMEM,
    Errno::ENOSPC,
];
const OF_ABSENT: [Errno; 6] =
    [Errno::EBUSY, Errno::ENODEV, Errno::ENOENT, Errno::ENOTCONN, Errno::ENXIO, Errno::ESTALE];
/// What the loader of libraries says, without the cause: too little memory, or a disk that is mounted with noexec.
pub const NOT_MAPPED: &str = "failed to map segment from shared object";
/// Those of which the loader of libraries and C++ give the words only.
const IN_WORDS: [Errno; 3] = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM];

impl Trouble {
    /// Returns the trouble that a message tells of. If it tells of several, the one that is most likely to pass.
    pub fn of_message(message: &str) -> Self {
        let numbers = message.split("(os error ").skip(1).filter_map(|rest| rest.split_once(')')?.0.parse().ok());
        let found = numbers.map(Self::of_number).min().unwrap_or(Self::Lasting);
        let is_short = message.contains(NOT_MAPPED) || IN_WORDS.iter().any(|errno| message.contains(&words(*errno)));
        if is_short { Self::Machine } else { found }
    }

    fn of_number(number: i32) -> Self {
        match Errno::from_raw(number) {
            errno if OF_MACHINE.contains(&errno) => Self::Machine,
            errno if OF_ABSENT.contains(&errno) => Self::Absent,
            _ => Self::Lasting,
        }
    }
}

/// Returns the system's words for an error, without its number.
fn words(errno: Errno) -> String {
    let text = io::Error::from_raw_os_error(errno as i32).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_found_in_a_text() {
        let of = |errno: Errno| {
            let error = io::Error::from_raw_os_error(errno as i32);
            Trouble::of_message(&format!("cannot read /a/b: {error}; and more"))
        };
        assert_eq!([Errno::EMFILE, Errno::EAGAIN, Errno::ENOMEM].map(of), [Trouble::Machine; 3]);
        assert_eq!([Errno::ENOENT, Errno::EBUSY, Errno::ENODEV].map(of), [Trouble::Absent; 3]);
        assert_eq!([Errno::EACCES, Errno::EISDIR, Errno::ELOOP].map(of), [Trouble::Lasting; 3]);
        for loader in
            ["libc.so: cannot open shared object file: Too many open files", "x: Cannot allocate memory", NOT_MAPPED]
        {
            assert_eq!(Trouble::of_message(loader), Trouble::Machine);
        }
        assert_eq!(Trouble::of_message("window.hop: 0 is out of range (os error x)"), Trouble::Lasting);
    }

    #[test]
    fn of_several_the_one_that_passes_first_counts() {
        assert_eq!(Trouble::of_message("a (os error 13); b (os error 2)"), Trouble::Absent);
        assert_eq!(Trouble::of_message("a (os error 2); b (os error 24)"), Trouble::Machine);
        assert!(Trouble::Machine < Trouble::Absent && Trouble::Absent < Trouble::Lasting);
    }
}

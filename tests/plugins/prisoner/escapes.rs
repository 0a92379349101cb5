//! What a library may try against the daemon, its user's other programs and the machine: one function each.
//!
//! Each does what it is named for to a victim that the test has made, or to the parent process, in a way that does no harm
//! if it is permitted: signal 0, limits that are only read, a priority that stays as it is.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::{null, null_mut};

use nix::libc::{self, c_int, c_long, pid_t};

type Escape = (&'static str, fn(&Path) -> io::Result<()>);

/// The name of each in the table of docs/delegates.md. The folder has `file` and `other`, a socket `stream` that listens, and
/// a socket `datagram`.
const ESCAPES: [Escape; 41] = [
    ("read the files of its user", |folder| File::open(folder.join("file")).map(drop)),
    ("write files", |folder| OpenOptions::new().write(true).open(folder.join("file")).map(drop)),
    ("make files", |folder| File::create_new(folder.join("new")).map(drop)),
    ("delete files", |folder| fs::remove_file(folder.join("other"))),
    ("rename files", |folder| fs::rename(folder.join("other"), folder.join("renamed"))),
    ("cut off a file by its path", |folder| truncate(&folder.join("file"))),
    ("cut off a file while it opens it for reading", |folder| {
        File::options().read(true).custom_flags(libc::O_TRUNC).open(folder.join("file")).map(drop)
    }),
    ("change the permissions of a file", |folder| {
        fs::set_permissions(folder.join("file"), fs::Permissions::from_mode(0o666))
    }),
    ("change the owner of a file", |folder| chown(folder.join("file"), None, Some(nix::unistd::getgid().as_raw()))),
    ("change the attributes of a file", |folder| set_attribute(&folder.join("file"))),
    ("change the times of a file", |folder| {
        let path = c_path(&folder.join("file"));
        // SAFETY: a C string, and no times, which stands for now.
        result(unsafe { libc::syscall(libc::SYS_utimensat, libc::AT_FDCWD, path.as_ptr(), null::<u8>(), 0) })
    }),
    ("hold a lock on a file that it can read", |folder| {
        let file = File::open(folder.join("file"))?;
        // SAFETY: a descriptor that is open.
        result(c_long::from(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) }))
    }),
    ("write temporary files", |_| temporary().map(drop)),
    ("cut off a temporary file by its path", |_| truncate(&temporary()?.path)),
    ("write a file of more than 1 GiB", |_| {
        // SAFETY: no handler.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        temporary()?.file.set_len((1 << 30) + 1)
    }),
    ("start a thread", |_| std::thread::Builder::new().spawn(|| {}).map(drop)),
    ("start a process", |_| fork()),
    ("run a program", |_| Command::new("/bin/true").status().map(drop)),
    ("leave its process group", |_| call(libc::SYS_setpgid, &[0, 0])),
    ("outlive the daemon", |_| call(libc::SYS_prctl, &[c_long::from(libc::PR_SET_PDEATHSIG), 0, 0, 0, 0])),
    ("send the daemon a signal", |_| call(libc::SYS_kill, &[parent(), 0])),
    ("send a thread of the daemon a signal", |_| call(libc::SYS_tgkill, &[parent(), parent(), 0])),
    ("send the daemon a signal by a descriptor of it", |_| {
        // SAFETY: both take numbers only; the third argument is none.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, parent(), 0) };
        result(process)?;
        call(libc::SYS_pidfd_send_signal, &[process, 0, 0, 0])
    }),
    ("have the kernel send the daemon a signal", |_| {
        let (ours, _theirs) = UnixStream::pair()?;
        call(libc::SYS_fcntl, &[c_long::from(ours.as_raw_fd()), c_long::from(libc::F_SETOWN), parent()])
    }),
    ("change the limits of the daemon", |_| {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let pid = parent() as pid_t;
        // SAFETY: room for the limit, which is only read.
        result(c_long::from(unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, null(), &raw mut limit) }))
    }),
    ("change the priority of the daemon", |_| {
        // The kernel's own call returns 20 minus the value.
        // SAFETY: numbers only.
        let value = 20 - unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, parent()) };
        call(libc::SYS_setpriority, &[c_long::from(libc::PRIO_PROCESS), parent(), value])
    }),
    ("change the priority of all processes of its user", |_| {
        call(libc::SYS_setpriority, &[c_long::from(libc::PRIO_USER), 0, 0])
    }),
    ("change the priority of the daemon's disk access", |_| call(libc::SYS_ioprio_set, &[1, parent(), 0])),
    ("move the daemon to other processors", |_| {
        let all = [u8::MAX; 128];
        // SAFETY: as many bytes as are named.
        result(unsafe { libc::syscall(libc::SYS_sched_setaffinity, parent(), all.len(), all.as_ptr()) })
    }),
    ("change how the daemon is scheduled", |_| {
        let priority: c_int = 0;
        // SAFETY: a sched_param is one number.
        result(unsafe { libc::syscall(libc::SYS_sched_setscheduler, parent(), libc::SCHED_OTHER, &raw const priority) })
    }),
    ("read the daemon's memory", |_| File::open(format!("/proc/{}/mem", parent())).map(drop)),
    ("read the daemon's environment", |_| fs::read(format!("/proc/{}/environ", parent())).map(drop)),
    ("stop the daemon as a debugger does", |_| {
        let pid = parent() as pid_t;
        // SAFETY: numbers only.
        result(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) })
    }),
    ("connect over TCP", |_| match TcpStream::connect("127.0.0.1:9") {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => other.map(drop),
    }),
    ("send over UDP", |_| UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", "127.0.0.1:9").map(drop)),
    ("connect to the socket of a program", |folder| UnixStream::connect(folder.join("stream")).map(drop)),
    ("send to the socket of a program", |folder| {
        UnixDatagram::unbound()?.send_to(b"x", folder.join("datagram")).map(drop)
    }),
    ("send to the socket of a program from a pair", |folder| {
        UnixDatagram::pair()?.0.send_to(b"x", folder.join("datagram")).map(drop)
    }),
    ("make a namespace", |_| call(libc::SYS_unshare, &[c_long::from(libc::CLONE_NEWUSER)])),
    ("use io_uring, which no filter sees", |_| {
        let mut parameters = [0_u8; 120];
        // SAFETY: room for the parameters.
        result(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
    }),
    ("write into the input of its terminal", |_| {
        let null = File::open("/dev/null")?;
        // SAFETY: a byte to read; it is no terminal, so that the kernel refuses it in its own way.
        match result(unsafe { libc::syscall(libc::SYS_ioctl, null.as_raw_fd(), libc::TIOCSTI, b"x".as_ptr()) }) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(()),
            other => other,
        }
    }),
];

/// Tries all of them. Returns a line for each: its name, a tab, and `yes`, `no` or the error.
pub(crate) fn try_all(folder: &Path) -> String {
    ESCAPES.iter().fold(String::new(), |lines, (name, escape)| {
        let how = match escape(folder) {
            Ok(()) => "yes".to_owned(),
            Err(error) if is_refusal(&error) => "no".to_owned(),
            Err(error) => error.to_string(),
        };
        format!("{lines}{name}\t{how}\n")
    })
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EFBIG))
}

fn parent() -> c_long {
    c_long::from(nix::unistd::getppid().as_raw())
}

fn result(returned: c_long) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a system call that takes numbers only.
fn call(number: c_long, arguments: &[c_long]) -> io::Result<()> {
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: no argument is a pointer.
    result(unsafe { libc::syscall(number, argument(0), argument(1), argument(2), argument(3), argument(4)) })
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

fn truncate(path: &Path) -> io::Result<()> {
    let path = c_path(path);
    // SAFETY: a C string.
    result(c_long::from(unsafe { libc::truncate(path.as_ptr(), 0) }))
}

fn set_attribute(path: &Path) -> io::Result<()> {
    let (path, value) = (c_path(path), b"x");
    // SAFETY: C strings, and as many bytes as are named.
    result(c_long::from(unsafe {
        libc::setxattr(path.as_ptr(), c"user.x".as_ptr(), value.as_ptr().cast(), value.len(), 0)
    }))
}

/// A new file in /tmp.
struct Temporary {
    path: PathBuf,
    file: File,
}

fn temporary() -> io::Result<Temporary> {
    let path = Path::new("/tmp").join(format!("prisoner-{}", std::process::id()));
    Ok(Temporary { file: File::create_new(&path)?, path })
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is of no use to anybody, so that an error does not matter.
        let _ = fs::remove_file(&self.path);
    }
}

fn fork() -> io::Result<()> {
    // SAFETY: the new process does nothing but end.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: it ends at once.
        0 => unsafe { libc::_exit(0) },
        // SAFETY: the process that was just made.
        pid => result(c_long::from(unsafe { libc::waitpid(pid, null_mut(), 0) })),
    }
}

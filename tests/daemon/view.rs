//! The full-screen view in a pseudo-terminal: the real binary, keys pressed, the size changed, the terminal restored.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use edgewatt_support::daemon::{Setup, edgewatt};
use edgewatt_support::mosquitto::Mosquitto;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(30);

/// A terminal as far as the view uses one: it understands what the view writes, and nothing else.
struct Screen {
    rows: Vec<Vec<char>>,
    at: (usize, usize),
    is_alternate: bool,
    has_cursor: bool,
    has_colour: bool,
    /// What was written outside of the alternate screen.
    normal: String,
}

impl Screen {
    fn new() -> Self {
        let rows = vec![vec![' '; 300]; 100];
        Self { rows, at: (0, 0), is_alternate: false, has_cursor: true, has_colour: false, normal: String::new() }
    }

    /// Takes output; returns what is left of it, which is the begin of a sequence or of a character.
    fn take<'a>(&mut self, mut text: &'a str) -> &'a str {
        while let Some(c) = text.chars().next() {
            let rest = &text[c.len_utf8()..];
            if c == '\x1b' {
                let Some(end) = rest.find(|c: char| ('@'..='~').contains(&c) && c != '[') else { return text };
                self.sequence(&rest[1..end], &rest[end..=end]);
                text = &rest[end + 1..];
                continue;
            }
            match c {
                '\r' => self.at.1 = 0,
                '\n' => self.at.0 += 1,
                _ if self.is_alternate => {
                    self.rows[self.at.0][self.at.1] = c;
                    self.at.1 += 1;
                }
                _ => {}
            }
            if !self.is_alternate && c != '\r' {
                self.normal.push(c);
            }
            text = rest;
        }
        text
    }

    fn sequence(&mut self, arguments: &str, end: &str) {
        match (arguments, end) {
            ("?1049", "h") => self.is_alternate = true,
            ("?1049", "l") => self.is_alternate = false,
            ("?25", "h") => self.has_cursor = true,
            ("?25", "l") => self.has_cursor = false,
            ("?7", _) => {}
            ("2", "J") => self.rows.iter_mut().for_each(|row| row.fill(' ')),
            (place, "H") => {
                let (row, column) = place.split_once(';').unwrap();
                self.at = (row.parse::<usize>().unwrap() - 1, column.parse::<usize>().unwrap() - 1);
            }
            (style, "m") => {
                self.has_colour |= style.split(';').any(|code| matches!(code, "31" | "32" | "33" | "36" | "90"))
            }
            // The log is coloured.
            _ if !self.is_alternate => {}
            other => panic!("the view writes an unknown sequence: {other:?}"),
        }
    }

    fn text(&self) -> String {
        let lines = self.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
    }

    /// Returns columns and rows up to the last character.
    fn extent(&self) -> (usize, usize) {
        let text = self.text();
        (text.lines().map(|line| line.chars().count()).max().unwrap_or(0), text.lines().count())
    }
}

/// A program that does not outlive its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn resize(terminal: &Path, columns: u16, rows: u16) {
    let (columns, rows) = (columns.to_string(), rows.to_string());
    let resized = Command::new("stty").arg("-F").arg(terminal).args(["cols", &columns, "rows", &rows]).status();
    assert!(resized.unwrap().success());
}

/// A program in a pseudo-terminal.
struct Session {
    child: Program,
    keyboard: File,
    terminal: File,
    path: PathBuf,
    output: Receiver<Vec<u8>>,
    unread: Vec<u8>,
    screen: Screen,
}

impl Session {
    fn start(command: &Command, columns: u16, rows: u16) -> Self {
        // No other program may inherit it, or it would not close.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).and_then(|()| unlockpt(&master)).unwrap();
        let path = PathBuf::from(ptsname_r(&master).unwrap());
        let options = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).clone();
        let terminal = options.open(&path).unwrap();
        resize(&path, columns, rows);
        let end = || Stdio::from(terminal.try_clone().unwrap());
        // The terminal becomes that of a session of its own, as after a login.
        let mut in_session = Command::new("setsid");
        in_session.arg("--ctty").arg(command.get_program()).args(command.get_args()).env("TERM", "xterm");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => in_session.env(name, value),
                None => in_session.env_remove(name),
            };
        }
        let child = in_session.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let keyboard = File::from(OwnedFd::from(master));
        let mut reader = keyboard.try_clone().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let child = Program(child);
        Self { child, keyboard, terminal, path, output, unread: Vec::new(), screen: Screen::new() }
    }

    fn read(&mut self) {
        if let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(20)) {
            self.unread.extend(bytes);
        }
        let valid = match std::str::from_utf8(&self.unread) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text = String::from_utf8(self.unread[..valid].to_vec()).unwrap();
        let left = self.screen.take(&text).len();
        self.unread.drain(..valid - left);
    }

    /// Waits until the screen is as wanted.
    #[track_caller]
    fn until(&mut self, what: &str, holds: impl Fn(&Screen) -> bool) {
        let begun = Instant::now();
        while !holds(&self.screen) {
            let state = (&self.screen.normal, self.screen.text());
            assert!(begun.elapsed() < PATIENCE, "{what} did not come.\n{}\n{}", state.0, state.1);
            self.read();
        }
    }

    #[track_caller]
    fn until_shown(&mut self, text: &str) {
        self.until(text, |screen| screen.is_alternate && screen.text().contains(text));
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn resize(&self, columns: u16, rows: u16) {
        resize(&self.path, columns, rows);
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.terminal).unwrap().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.0.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end; the terminal must be as it was.
    #[track_caller]
    fn end(mut self) -> (ExitStatus, String) {
        let begun = Instant::now();
        let status = loop {
            self.read();
            if let Some(status) = self.child.0.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end:\n{}", self.screen.text());
        };
        for _ in 0..10 {
            self.read();
        }
        let Screen { is_alternate, has_cursor, .. } = self.screen;
        assert!(!is_alternate && has_cursor && !self.is_raw(), "{is_alternate} {has_cursor} {}", self.is_raw());
        (status, self.screen.normal)
    }
}

fn watch(port: u16) -> Command {
    edgewatt(&["watch", "--broker", &format!("mqtt://127.0.0.1:{port}")])
}

fn setup(port: u16) -> Setup {
    Setup::demo(port).at_speed("4.0").with("interval_s = 10.0", "interval_s = 1.0")
}

#[test]
fn watch_shows_a_node_takes_keys_and_restores_the_terminal() {
    let broker = Mosquitto::running();
    let setup = setup(broker.port).with("[mqtt]", "[mqtt]\ncommands = true");
    let daemon = setup.start(&[]);
    let mut session = Session::start(&watch(broker.port), 80, 24);
    for text in ["demo › shoulder  running", "% right of", "more than idle", "Delegate", "runs 8 of 9 operators"] {
        session.until_shown(text);
    }
    assert!(session.is_raw() && !session.screen.has_cursor && session.screen.has_colour);
    session.until("the last row", |screen| screen.extent() == (80, 24));

    // While messages come.
    session.resize(60, 20);
    session.until("60 columns", |screen| screen.extent() == (60, 20));
    session.resize(200, 50);
    session.until("200 columns", |screen| screen.extent() == (200, 50));
    session.resize(80, 24);
    session.until("80 columns", |screen| screen.extent() == (80, 24));

    session.press("?");
    session.until_shown("energy that an inference adds to idle");
    session.press("\x1b");
    session.until("no help", |screen| !screen.text().contains("an inference adds to idle"));
    session.press("p");
    session.until_shown("shoulder  paused");
    session.until_shown("pipeline shoulder is paused");
    session.press("p");
    session.until_shown("shoulder  running");
    session.press("d");
    session.until_shown("xnnpack  in use");
    session.press("q");
    let (status, _) = session.end();
    assert_eq!(status.code(), Some(0));
    daemon.signal(Signal::SIGTERM);
    daemon.wait().expect(0);
}

#[test]
fn a_node_that_takes_no_commands_is_named() {
    let broker = Mosquitto::running();
    let setup = setup(broker.port);
    let daemon = setup.start(&[]);
    let mut command = watch(broker.port);
    command.env("NO_COLOR", "1");
    let mut session = Session::start(&command, 100, 30);
    session.until_shown("shoulder  running");
    session.press("p");
    session.until_shown("no answer from demo within 3 s: commands need mqtt.commands = true on the node");
    assert!(!session.screen.has_colour);
    daemon.signal(Signal::SIGTERM);
    session.until_shown("shoulder  offline");
    daemon.wait().expect(0);
    session.signal(Signal::SIGTERM);
    let (status, _) = session.end();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::SIGTERM as i32));
}

#[test]
fn the_daemon_s_own_view_outlives_the_broker_and_ends_with_the_daemon() {
    // A warning of the log must not destroy the screen: it becomes an event, and is written at the end.
    for end in ["q", "\x03", ""] {
        let mut broker = Mosquitto::running();
        let setup = setup(broker.port).with("[mqtt]", "[mqtt]\nstop_timeout_s = 1.0");
        let mut session = Session::start(&setup.command("run", &["--watch"]), 80, 24);
        session.until_shown("% right of");
        broker.stop();
        session.until_shown("warning:");
        session.press("p");
        session.until_shown("pipeline shoulder is paused");
        match end {
            "" => session.signal(Signal::SIGTERM),
            key => session.press(key),
        }
        let (status, written) = session.end();
        assert_eq!(status.code(), Some(0), "{written}");
        assert!(written.contains("WARN") && written.contains("shoulder: "), "{written}");
    }
}

#[test]
fn a_terminal_that_closes_ends_the_daemon_in_order() {
    let broker = Mosquitto::running();
    let setup = setup(broker.port);
    let mut session = Session::start(&setup.command("run", &["--watch"]), 80, 24);
    session.until_shown("% right of");
    // The thread that reads has the terminal open as well; it ends when its output is not wanted any more.
    let Session { mut child, keyboard, terminal, output, .. } = session;
    drop((keyboard, terminal, output));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
}

//! Other programs, with a limit of time and of output.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// The most that is kept of each output.
const MAX_BYTES: u64 = 1 << 20;
/// How often it is checked whether the program has ended.
const POLL: Duration = Duration::from_millis(20);
/// How long an output is waited for after the program's end: a child of it can still hold the output open.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// What a program has printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub stdout: String,
    pub stderr: String,
    /// `None`: it was ended, because it took too long.
    pub status: Option<ExitStatus>,
}

impl Ran {
    /// Returns all of it as one text.
    pub(crate) fn text(self, limit: Duration) -> String {
        let mut text = self.stdout;
        if !self.stderr.trim().is_empty() {
            text.push_str(&format!("\n[standard error]\n{}\n", self.stderr.trim_end()));
        }
        match self.status {
            Some(status) if !status.success() => text.push_str(&format!("\n[{status}]\n")),
            None => text.push_str(&format!("\n[ended after {} s, its limit]\n", limit.as_secs())),
            Some(_) => {}
        }
        text
    }
}

/// Runs a program without input, for `limit` at most.
///
/// # Errors
/// Why it could not be started.
pub(crate) fn run(mut command: Command, limit: Duration) -> Result<Ran, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
    let mut child = command.spawn().map_err(|error| format!("{name} could not be started: {error}"))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child, Instant::now() + limit).map_err(|error| format!("{name}: {error}"))?;
    Ok(Ran { stdout: all(&stdout), stderr: all(&stderr), status })
}

/// Waits for the child until the deadline, and ends it then.
fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Reads an output to its end, on a separate thread. Bytes beyond the limit are read and thrown away, so that the program
/// does not wait.
fn collect(output: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, pieces) = channel();
    if let Some(mut output) = output {
        std::thread::spawn(move || {
            let (mut piece, mut left) = ([0; 8192], MAX_BYTES);
            while let Ok(count @ 1..) = output.read(&mut piece) {
                let kept = left.min(count as u64);
                left -= kept;
                // The receiver is gone if the program took too long.
                if sender.send(piece[..kept as usize].to_vec()).is_err() {
                    return;
                }
            }
        });
    }
    pieces
}

fn all(pieces: &Receiver<Vec<u8>>) -> String {
    let (mut bytes, deadline) = (Vec::new(), Instant::now() + LAST_OUTPUT);
    while let Ok(piece) = pieces.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        bytes.extend(piece);
    }
    if bytes.len() as u64 >= MAX_BYTES {
        bytes.extend(b"\n[cut off here]\n");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Ran {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        run(command, limit).unwrap()
    }

    #[test]
    fn output_errors_and_the_status_are_kept() {
        let limit = Duration::from_secs(60);
        let text = shell("echo out; echo err >&2; exit 3", limit).text(limit);
        assert_eq!(text, "out\n\n[standard error]\nerr\n\n[exit status: 3]\n");
        assert_eq!(shell("echo out", limit).text(limit), "out\n");
        let absent = run(Command::new("/nowhere/program"), limit).unwrap_err();
        assert!(absent.starts_with("/nowhere/program could not be started: No such file"), "{absent}");
    }

    #[test]
    fn a_program_that_hangs_is_ended_even_if_its_child_keeps_the_output_open() {
        let limit = Duration::from_millis(200);
        let ran = shell("echo first; sleep 600 & wait", limit);
        assert!(ran.status.is_none());
        assert!(ran.text(limit).starts_with("first\n\n[ended after "));
    }

    #[test]
    fn endless_output_is_cut_off() {
        let ran = shell("yes | head -c 3000000; echo", Duration::from_secs(60));
        assert!(ran.status.is_some_and(|status| status.success()));
        assert!(ran.stdout.ends_with("y\n\n[cut off here]\n") && ran.stdout.len() < 1_100_000, "{}", ran.stdout.len());
    }
}

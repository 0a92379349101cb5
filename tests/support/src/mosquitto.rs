//! A real mosquitto for one test: own port on loopback, own folder, stopped by its process.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A port of 127.0.0.1 that nobody has at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub fn command(program: &str) -> Command {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin"]
        .map(|dir| std::path::Path::new(dir).join(program))
        .into_iter()
        .find(|path| path.exists());
    match found {
        Some(path) => Command::new(path),
        None => panic!("{program} is missing; run: apt-get install mosquitto mosquitto-clients"),
    }
}

/// A broker that can be started, stopped, killed and started again on the same port.
pub struct Mosquitto {
    pub port: u16,
    child: Option<Child>,
    dir: TempDir,
}

impl Mosquitto {
    /// A port and a configuration; nothing runs yet.
    pub fn absent() -> Self {
        let (port, dir) = (free_port(), TempDir::new().unwrap());
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\nuser root\n"
        );
        std::fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        Self { port, child: None, dir }
    }

    /// Runs with `config` instead, which gets its folder; its first listener is the plain one on `port`.
    pub fn configured(config: impl FnOnce(&std::path::Path) -> String) -> Self {
        let mut broker = Self::absent();
        let port = broker.port;
        let text = format!("listener {port} 127.0.0.1\npersistence false\nuser root\n{}", config(broker.dir.path()));
        std::fs::write(broker.dir.path().join("mosquitto.conf"), text).unwrap();
        broker.start();
        broker
    }

    /// Has `text` as its whole configuration, with a plain listener on `port`, and that folder; nothing runs yet.
    pub fn exactly(port: u16, dir: TempDir, text: &str) -> Self {
        std::fs::write(dir.path().join("mosquitto.conf"), text).unwrap();
        Self { port, child: None, dir }
    }

    pub fn running() -> Self {
        let mut broker = Self::absent();
        broker.start();
        broker
    }

    pub fn start(&mut self) {
        let mut child = command("mosquitto")
            .arg("-c")
            .arg(self.dir.path().join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "mosquitto ended at its start");
            assert!(Instant::now() < deadline, "mosquitto does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
    }

    /// SIGTERM: it saves what it keeps.
    pub fn stop(&mut self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).unwrap();
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }

    /// SIGKILL: nothing is saved, no connection is closed in order.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The id of the process, for a signal of the test's own.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map(|child| child.id()).and_then(|id| i32::try_from(id).ok()).expect("no broker runs")
    }

    /// Publishes a message that is not retained.
    pub fn publish(&self, topic: &str, payload: &str) {
        self.publish_with(&[], topic, payload);
    }

    /// Publishes a message that the broker keeps.
    pub fn publish_retained(&self, topic: &str, payload: &str) {
        self.publish_with(&["-r"], topic, payload);
    }

    fn publish_with(&self, options: &[&str], topic: &str, payload: &str) {
        let port = self.port.to_string();
        let told = command("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", topic, "-m", payload])
            .args(options)
            .status();
        assert!(told.unwrap().success(), "mosquitto_pub failed");
    }

    /// Subscribes at QoS 0; returns once the broker has the subscription.
    pub fn subscribe(&self, topic: &str) -> Subscriber {
        Subscriber::connect(self.port, topic)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A `mosquitto_sub` and what it received.
pub struct Subscriber {
    greeting: Vec<String>,
    child: Child,
    lines: Receiver<String>,
}

impl Subscriber {
    /// Subscribes to a broker on loopback, whichever it is; returns once it has the subscription.
    pub fn connect(port: u16, topic: &str) -> Self {
        Self::at_qos(port, topic, 0)
    }

    /// At QoS 1 a broker that is killed forgets what it had queued for the subscriber; at QoS 0 it queues nothing.
    pub fn at_qos(port: u16, topic: &str, qos: u8) -> Self {
        Self::logged_in(port, topic, qos, &[], "ready", &[])
    }

    /// With arguments for the `login`, a topic that this one may write and read, and `more` arguments for the session.
    pub fn logged_in(port: u16, topic: &str, qos: u8, login: &[&str], ready: &str, more: &[&str]) -> Self {
        let port = port.to_string();
        let address = [&["-h", "127.0.0.1", "-p", &port], login].concat();
        let told = command("mosquitto_pub").args(&address).args(["-r", "-q", "1", "-t", ready, "-m", "1"]).status();
        assert!(told.unwrap().success(), "mosquitto_pub failed");
        // The retained `ready` shows that the broker has read the one packet with both subscriptions.
        let mut child = command("mosquitto_sub")
            .args(&address)
            .args(["-v", "-q", &qos.to_string(), "-t", topic, "-t", ready])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut subscriber = Self { greeting: Vec::new(), child, lines };
        let ready = format!("{ready} 1");
        subscriber.greeting = subscriber.until(|line| line == ready);
        subscriber.greeting.pop();
        subscriber
    }

    /// Lines (`topic payload`) up to and with the first for which `last` holds.
    pub fn until(&mut self, mut last: impl FnMut(&str) -> bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut received = Vec::new();
        loop {
            // What never comes may be missed among much else that does.
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if Instant::now() < deadline => received.push(line),
                end => panic!("waited in vain ({end:?}); last of {}: {:?}", received.len(), received.last()),
            }
            if received.last().is_some_and(|line| last(line)) {
                return received;
            }
        }
    }

    /// What the broker had retained on the topic, sorted; to be asked before anything else.
    pub fn retained(&mut self) -> Vec<String> {
        // Brokers differ in whose retained messages they send first.
        let mut lines = std::mem::take(&mut self.greeting);
        lines.extend(self.rest(Duration::from_millis(300)));
        lines.sort();
        lines
    }

    /// Lines that are there, without waiting for more than `quiet` between two.
    pub fn rest(&mut self, quiet: Duration) -> Vec<String> {
        std::iter::from_fn(|| self.lines.recv_timeout(quiet).ok()).collect()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

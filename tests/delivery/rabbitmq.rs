//! RabbitMQ, another real broker than mosquitto: it speaks MQTT 3.1.1 only (3.10, in Debian 12), and acknowledges a message
//! once it is on its disk. `make test-rabbitmq` runs this in a network of its own, because what RabbitMQ starts beside it
//! listens to all networks.

use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edgewatt_support::daemon::Setup;
use edgewatt_support::mosquitto::{Subscriber, free_port};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const WINDOWS: u64 = 491;

struct Rabbit {
    port: u16,
    folder: TempDir,
    server: Child,
}

impl Rabbit {
    fn start() -> Self {
        let (port, folder) = (free_port(), TempDir::new().unwrap());
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nmqtt.listeners.tcp.1 = 127.0.0.1:{port}\nmqtt.allow_anonymous = true\n",
            free_port()
        );
        fs::write(folder.path().join("rabbitmq.conf"), config).unwrap();
        fs::write(folder.path().join("plugins"), "[rabbitmq_mqtt].").unwrap();
        let server = run(&folder);
        let rabbit = Self { port, folder, server };
        rabbit.wait();
        rabbit
    }

    fn wait(&self) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let said = || fs::read_to_string(self.folder.path().join("said")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(120), "RabbitMQ does not listen: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL, to all of its processes.
    fn kill(&mut self) {
        killpg(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGKILL).unwrap();
        self.server.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.server = run(&self.folder);
        self.wait();
    }
}

impl Drop for Rabbit {
    fn drop(&mut self) {
        // It may have been killed before.
        let _ = killpg(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGKILL);
        let _ = self.server.wait();
    }
}

fn run(folder: &TempDir) -> Child {
    let path = |name: &str| folder.path().join(name);
    let said = fs::File::create(path("said")).unwrap();
    let mut command = Command::new(SERVER);
    command.process_group(0).stdin(Stdio::null()).stdout(said.try_clone().unwrap()).stderr(said);
    command
        .env("RABBITMQ_NODENAME", "edgewatt@localhost")
        .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
        .env("RABBITMQ_MNESIA_BASE", path("data"))
        .env("RABBITMQ_LOG_BASE", path("log"))
        .env("HOME", folder.path());
    command.spawn().unwrap_or_else(|error| panic!("{SERVER}: {error}; run: make test-rabbitmq"))
}

/// The number of each prediction that came, in their order.
fn numbers(lines: &[String]) -> Vec<u64> {
    let number = |line: &String| {
        let (_, rest) = line.split_once("/prediction ")?.1.split_once("\"seq\":")?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    lines.iter().filter_map(number).collect()
}

/// With a session that the broker keeps, and a queue on its disk.
fn subscriber(rabbit: &Rabbit) -> Subscriber {
    Subscriber::logged_in(rabbit.port, "edgewatt/#", 1, &[], "ready", &["-c", "-i", "listener"])
}

fn three(rabbit: &Rabbit) -> Setup {
    Setup::demo(rabbit.port).with_keys("[mqtt]", "version = \"3.1.1\"")
}

#[test]
#[ignore = "needs RabbitMQ and a network of its own: make test-rabbitmq"]
fn predictions_arrive_in_order_through_kills_of_the_broker() {
    let mut rabbit = Rabbit::start();
    let mut subscriber = subscriber(&rabbit);
    let setup = three(&rabbit).at_speed("10.0");
    let mut daemon = setup.start(&["--once"]);
    let mut lines = Vec::new();
    for kill in 1..=3_u64 {
        lines.extend(subscriber.until(|line| numbers(&[line.to_owned()]).iter().any(|number| *number >= 120 * kill)));
        rabbit.kill();
        std::thread::sleep(Duration::from_millis(300));
        rabbit.start_again();
        daemon.in_log("a new connection", |log| {
            (log.matches("connected to the MQTT broker").count() as u64 > kill).then_some(())
        });
    }
    let ended = daemon.wait_at_most(Duration::from_secs(120)).expect(0);
    assert_eq!(ended.summary(" undelivered"), 0, "{}", ended.stdout);
    while !numbers(&lines).contains(&(WINDOWS - 1)) {
        lines.extend(subscriber.until(|line| line.contains("/prediction ")));
    }
    let mut expected = 0;
    for number in numbers(&lines) {
        assert!(number <= expected, "{expected} is missing before {number}");
        expected = expected.max(number + 1);
    }
    assert_eq!(expected, WINDOWS);
}

#[test]
#[ignore = "needs RabbitMQ and a network of its own: make test-rabbitmq"]
fn that_it_does_not_speak_mqtt_5_is_said_with_what_to_do() {
    let rabbit = Rabbit::start();
    let five = Setup::demo(rabbit.port);
    let mut daemon = five.start(&[]);
    daemon.in_log("the advice", |log| log.contains("mqtt.version = \"3.1.1\"").then_some(()));
    // What is retained there is what a subscriber finds who comes later.
    three(&rabbit).at_speed("\"max\"").run_once().expect(0);
    let retained = Subscriber::connect(rabbit.port, "edgewatt/demo/p/shoulder/status").retained();
    assert_eq!(retained.len(), 1, "{retained:?}");
}

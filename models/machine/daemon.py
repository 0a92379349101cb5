"""Plays recordings through edgewatt, and returns what it publishes of each window: features or scores.

So the features that a model is trained on, and the scores that it is judged by, are those of the daemon itself. Needs a
built edgewatt, its runtime, and mosquitto.
"""

import json
import os
import platform
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = REPOSITORY / "target/release/edgewatt"
EXAMPLE = REPOSITORY / "examples/machine-anomaly"
# Times real time: so fast that an hour takes a minute, and so slow that the broker takes each message.
SPEED = 60.0
PATIENCE_S = 3600


def toml(value):
    """A value as it is written in one line of TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(of)}" for key, of in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


class Daemon:
    """The program and its runtime, as `make` builds and fetches them, and the window and the features of a configuration."""

    def __init__(self, program, config=EXAMPLE / "recording.toml"):
        self.program = Path(program).resolve()
        if not self.program.exists():
            raise SystemExit(f"{program} is not there: build it with `cargo build --release --locked`")
        default = REPOSITORY / "runtime" / platform.machine() / "libtensorflowlite_c.so"
        self.environment = {"EDGEWATT_RUNTIME": str(default), **os.environ}
        pipelines = tomllib.loads(Path(config).read_text())["pipelines"]
        if len(pipelines) != 1:
            raise SystemExit(f"{config} has {len(pipelines)} pipelines; write one with the window and the features")
        [self.pipeline] = pipelines.values()

    def configuration(self, recording, model, decision, node, broker):
        replay = {"path": str(Path(recording).resolve()), "speed": SPEED, "buffer": {"when_full": "wait"}}
        keys = {"source": {"replay": replay}, "model": {"path": str(Path(model).resolve())}, "decision": decision}
        # What makes features of samples.
        keys |= {key: self.pipeline[key] for key in ("frontend", "window", "features") if key in self.pipeline}
        mqtt = {"broker": broker, "store": {"enabled": False}}
        return f"node.id = {toml(node)}\nmqtt = {toml(mqtt)}\npipelines.machine = {toml(keys)}\n"

    def play(self, recordings, model, decision):
        """Plays each recording to its end; returns a list of the predictions of each, in order.

        `recordings`: paths of WAV files, or of manifests of `edgewatt record`.
        """
        with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as broker:
            listener = broker.listen(self.program, self.environment)
            try:
                numbered = enumerate(recordings)
                return [self.play_one(path, model, decision, place, broker, listener) for place, path in numbered]
            finally:
                listener.stop()

    def play_one(self, recording, model, decision, place, broker, listener):
        node, address = f"recording-{place}", f"mqtt://127.0.0.1:{broker.port}"
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "edgewatt.toml"
            config.write_text(self.configuration(recording, model, decision, node, address))
            printed = self.run([self.program, "run", "--once", "--json", "--config", config], folder)
        [pipeline] = json.loads(printed)["pipelines"]
        return listener.predictions(node, pipeline["counts"]["predictions"])

    def learn(self, recording, model, decision, quantile):
        """Learns the threshold of a decision, which names the file, from one recording of normal operation."""
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "edgewatt.toml"
            config.write_text(self.configuration(recording, model, decision, "machine", "none"))
            command = [self.program, "learn", "--config", config, "--recording", recording, "--quantile", str(quantile)]
            return self.run(command, folder)

    def run(self, command, folder):
        """What a command prints; `folder` is for what it keeps."""
        environment = {**self.environment, "STATE_DIRECTORY": folder, "RUNTIME_DIRECTORY": folder}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
        if run.returncode:
            raise SystemExit(f"edgewatt {command[1]} failed:\n{run.stderr}")
        return run.stdout


class Broker:
    """A mosquitto on a free port of this machine."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
            "log_dest stderr\nlog_type subscribe\nlog_type error\n"
        )
        # Debian has it where only root looks.
        program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if not program:
            raise SystemExit("mosquitto is missing: apt-get install mosquitto")
        self.process = subprocess.Popen([program, "-c", config], stderr=subprocess.PIPE, text=True)
        self.log = self.process.stderr
        self.wait_until_it_listens()

    def wait_until_it_listens(self):
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise SystemExit(f"mosquitto ended: {self.log.read()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def listen(self, program, environment):
        listener = Listener(program, environment, self.port)
        # The broker tells when it has subscribed.
        for line in self.log:
            if "edgewatt/#" in line:
                threading.Thread(target=self.log.read, daemon=True).start()
                return listener
        raise SystemExit("mosquitto ended before anything had subscribed")


class Listener:
    """`edgewatt watch --json`, which prints every message."""

    def __init__(self, program, environment, port):
        command = [program, "watch", "--json", "--broker", f"mqtt://127.0.0.1:{port}", "--topic", "edgewatt/#"]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        # Read at once: a program that waits for its reader does not answer the broker.
        self.lines = queue.SimpleQueue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def predictions(self, node, count):
        """The next `count` predictions, which must be those of `node`, in order."""
        found = []
        while len(found) < count:
            line = self.lines.get()
            if line is None:
                raise SystemExit(f"edgewatt watch ended after {len(found)} of {count} predictions of {node}")
            message = json.loads(line)
            if message["topic"] == f"edgewatt/{node}/p/machine/prediction":
                found.append(message["payload"])
        if [message["seq"] for message in found] != list(range(count)):
            raise SystemExit(f"{node}: predictions are missing or came twice")
        return found

    def stop(self):
        self.process.terminate()
        self.process.wait()

"""Shared by the comparisons: a broker, a subscriber that counts, and the resources that a process used."""
import atexit
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def stretched(recording: Path, times: int, rate_hz: float, out: Path) -> int:
    """Writes the recording several times over as one stream without gaps; returns its samples."""
    header, *rows = recording.read_text(encoding="utf-8").splitlines()
    if not header.startswith("time_s,"):
        sys.exit(f"{recording}: the first column is not time_s")
    rests = [row.split(",", 1)[1] for row in rows]
    with out.open("w", encoding="utf-8") as file:
        print(header, file=file)
        for n in range(times * len(rests)):
            print(f"{n / rate_hz:.2f},{rests[n % len(rests)]}", file=file)
    return times * len(rests)


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        if text.count(old) != 1:
            sys.exit(f"config/demo.toml: {old!r} is there {text.count(old)} times, not once")
        text = text.replace(old, new)
    return text


class Broker:
    """A mosquitto on a free port of loopback, for this script only."""

    def __init__(self, folder: Path, more: str = ""):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        conf = folder / "mosquitto.conf"
        # Without a limit on what is queued: the counting subscriber must get every message.
        conf.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
                        f"set_tcp_nodelay true\nmax_queued_messages 0\n{more}", encoding="utf-8")
        binary = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin") or sys.exit("mosquitto is missing")
        with (folder / "mosquitto.log").open("w") as log:
            atexit.register(subprocess.Popen([binary, "-c", conf], stdout=log, stderr=log).terminate)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)
        sys.exit("mosquitto does not listen:\n" + (folder / "mosquitto.log").read_text())

    def subscribe(self, topic: str, count: int) -> "Subscriber":
        return Subscriber(self.port, topic, count)


class Subscriber:
    """A mosquitto_sub that ends after this many messages, or when no more come."""

    def __init__(self, port: int, topic: str, count: int):
        self.out = tempfile.TemporaryFile("a+")  # appended to, wherever we read
        command = ["stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-q", "1", "-t", topic, "-d",
                   "-F", "%p", "-C", str(count)]
        self.process = subprocess.Popen(command, stdout=self.out)
        atexit.register(self.process.terminate)
        for _ in range(200):
            if "\nSubscribed" in self.text():
                return
            time.sleep(0.05)
        sys.exit("mosquitto_sub did not subscribe")

    def text(self) -> str:
        self.out.seek(0)
        return self.out.read()

    def payloads(self) -> list[dict]:
        """Returns what it received. Call it when the publisher has ended."""
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()
        return [json.loads(line) for line in self.text().splitlines() if line.startswith("{")]


def measured(command: list, env: dict, stdin: Path | None = None) -> tuple[str, float, float]:
    """Runs a command with a file as its input. Returns its output, CPU seconds and peak resident memory in MiB."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, open(stdin or os.devnull) as given:
        child = subprocess.Popen(command, stdin=given, stdout=out, stderr=err, env=env)
        # Not ru_maxrss, which includes the memory of its parent, this script.
        peak_kib, pid = 0, 0
        while pid == 0:
            peak_kib = max(peak_kib, peak_rss_kib(child.pid))
            time.sleep(0.02)
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        child.returncode = os.waitstatus_to_exitcode(status)
        for file in (out, err):
            file.seek(0)
        if child.returncode != 0:
            sys.exit(f"{command[0]} failed ({child.returncode}):\n{out.read()}{err.read()}")
        return out.read(), usage.ru_utime + usage.ru_stime, peak_kib / 1024


def peak_rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    # A process that has just ended has no memory left to read.
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def table(rows: dict[str, list[dict]]) -> None:
    names = list(next(iter(rows.values()))[0])
    print(f"{'median':<16}" + "".join(f"{name:>18}" for name in names))
    for who, runs in rows.items():
        print(f"{who:<16}" + "".join(f"{statistics.median(run[name] for run in runs):>18.1f}" for name in names))

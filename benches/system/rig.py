"""Shared by the comparisons: a broker, a subscriber that counts, and the resources that a process used."""
import argparse
import atexit
import contextlib
import fcntl
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import termios
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

    def subscribe(self, topic: str, count: int, form: str = "%p") -> "Subscriber":
        return Subscriber(self.port, topic, count, form)


class Subscriber:
    """A mosquitto_sub that ends after this many messages, or when no more come."""

    def __init__(self, port: int, topic: str, count: int, form: str):
        self.out = tempfile.TemporaryFile("a+")  # appended to, wherever we read
        command = ["stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-q", "1", "-t", topic, "-d",
                   "-F", form, "-C", str(count)]
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

    def lines(self) -> list[str]:
        """Returns what it received, each message in its form. Call it when the publisher has ended."""
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()
        return [line for line in self.text().splitlines() if line.endswith("}")]

    def payloads(self) -> list[dict]:
        return [json.loads(line) for line in self.lines()]


def write_live(fifo: Path, header: bytes, lines: list[bytes], rate_hz: float, reader: subprocess.Popen) -> list[float]:
    """Writes each line at its time, once the reader is there. Returns the times, in seconds since 1970."""
    written = []
    # For reading too, so that it does not wait for a reader that has refused its configuration.
    with fifo.open("r+b", buffering=0) as pipe:
        pipe.write(header)
        while int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder):
            if reader.poll() is not None:
                return []
            time.sleep(0.05)
        # It may have more to load.
        time.sleep(2)
        begun = time.monotonic()
        for n, line in enumerate(lines):
            time.sleep(max(0, begun + n / rate_hz - time.monotonic()))
            written.append(time.time())
            pipe.write(line)
    return written


def percentile(values: list[float], percent: float) -> float:
    """Returns the smallest value that so many percent do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


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
        print(f"{who:<16}" + "".join(f"{statistics.median(run[name] for run in runs):>18.2f}" for name in names))


def take_turns(comparisons: list, description: str, rounds: int) -> None:
    """Runs comparisons, each a module, in turn, and ends the program: with 1 if one of them has missed its goals."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--edgewatt", default=ROOT / "target/release/edgewatt", help="the release binary")
    p.add_argument("--python", default=sys.executable, help="one that has benches/system/requirements.txt")
    p.add_argument("--rounds", type=int, default=rounds)
    for comparison in comparisons:
        comparison.arguments(p)
    args = p.parse_args()
    with contextlib.ExitStack() as folders:
        benches = [comparison.Bench(args, Path(folders.enter_context(tempfile.TemporaryDirectory())))
                   for comparison in comparisons]
        for bench in benches:
            bench.prepare()
        for _ in range(args.rounds):
            for bench in benches:
                bench.round()
        met = [bench.report() for bench in benches]
    sys.exit(0 if all(met) else 1)

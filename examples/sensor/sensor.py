#!/usr/bin/env python3
"""Feeds the samples of a sensor to edgewatt: one JSON object a line, over the unix socket of a `lines` source.

    sensor.py SOCKET [--rate HZ] [--samples COUNT]

edgewatt listens on the socket (see edgewatt.toml). It takes one writer at a time. Needs only Python itself.
"""

import argparse
import itertools
import json
import math
import socket
import sys
import time


def read_sensor(seconds):
    """Returns one sample by channel. Put the code that reads your sensor here."""
    swing = math.sin(2 * math.pi * 0.5 * seconds)
    return {"ax": 0.2 * swing, "ay": 0.4, "az": -0.1, "wx": 0.0, "wy": 1.5 * swing, "wz": 0.0}


def connect(path):
    """Connects to edgewatt. Waits until it is there, for example while it restarts."""
    waiting = False
    while True:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(path)
            return link
        except (FileNotFoundError, ConnectionRefusedError):
            link.close()
            if not waiting:
                print(f"waiting for edgewatt at {path}", file=sys.stderr)
            waiting = True
            time.sleep(0.2)


def main():
    p = argparse.ArgumentParser(description="Feeds samples to edgewatt over a unix socket")
    p.add_argument("socket", help="the path that the source's `from` names")
    p.add_argument("--rate", type=float, default=50.0, help="samples a second")
    p.add_argument("--samples", type=int, help="stop after so many; default: never")
    args = p.parse_args()

    link = connect(args.socket)
    begun = time.monotonic()
    for index in itertools.count() if args.samples is None else range(args.samples):
        # The next sample is due at a fixed time, so that delays do not add up.
        time.sleep(max(0.0, begun + index / args.rate - time.monotonic()))
        now = time.monotonic() - begun
        line = json.dumps({"time_s": round(now, 6), **read_sensor(now)}) + "\n"
        try:
            link.sendall(line.encode())
        except OSError as e:
            # This sample is lost. edgewatt sees the gap by the time of the next one.
            print(f"edgewatt has gone: {e}", file=sys.stderr)
            link.close()
            link = connect(args.socket)
    link.close()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass

#!/usr/bin/env python3
"""Turns the lines of `candump -L` into CSV: the time, then two signed numbers of 16 bits, the low byte first.

A line is "(1345212884.318850) can0 123#0A00FF7F"; change LAYOUT to what your device sends (see Python's module struct).
"""
import struct
import sys

LAYOUT = struct.Struct("<hh")

for line in sys.stdin:
    try:
        time, _, frame = line.split()[:3]
        data = bytes.fromhex(frame.split("#")[1])
        print(time.strip("()"), *LAYOUT.unpack_from(data), sep=",")
    except (ValueError, IndexError, struct.error):
        print(f"not a frame of the layout: {line.strip()}", file=sys.stderr)

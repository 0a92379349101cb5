#!/usr/bin/env python3
"""The wake word as its makers run it: raw sound from standard input through pymicro-wakeword's own classes.

benches/system/compare-audio runs it in turn with edgewatt. Needs tests/golden/audio/requirements.txt. It is the loop of
`python -m pymicro_wakeword`, which takes 2048 bytes at a time, and publishes nothing. Prints one JSON line at the end of
its input: heard (words; a second at least between two), windows, cpu_s (without start and imports).
"""
import json
import sys
import time

from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model


def main() -> None:
    model, features = MicroWakeWord.from_builtin(Model(sys.argv[1])), MicroWakeWordFeatures()
    frames, heard, last = 0, 0, -1000
    cpu_s = time.process_time()
    while chunk := sys.stdin.buffer.read(2048):
        for frame in features.process_streaming(chunk):
            frames += 1
            if model.process_streaming(frame) and frames - last > 100:
                heard, last = heard + 1, frames
    print(json.dumps({"heard": heard, "windows": frames // 3, "cpu_s": time.process_time() - cpu_s}))


if __name__ == "__main__":
    main()

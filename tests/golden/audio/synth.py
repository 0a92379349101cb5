"""Sound that Rust (tests/support/src/sound.rs) and Python make alike, of whole numbers: 16 kHz, 16 bits, one channel.

A plan has one line for each part: its seconds, its kind and the kind's numbers.
  silence           zeros
  noise A           -A to A
  clipped           noise four times as loud as fits
  square P          full scale, changing every P samples
  constant V
  sweep             a saw tooth of 20,000, from 50 Hz up
  impulses          one full-scale sample of 1777
  steps             a new level every 2500 samples
  bursts            noise of 20 and of 20,000, 4800 samples each
  speech G A        speech.wav over and over, times G / 256, in noise of A
"""
import wave
from pathlib import Path

RATE_HZ = 16_000
FOLDER = Path(__file__).parent


def speech() -> list[int]:
    with wave.open(str(FOLDER / "speech.wav")) as file:
        data = file.readframes(file.getnframes())
    return [int.from_bytes(data[i:i + 2], "little", signed=True) for i in range(0, len(data), 2)]


def cut(value: int) -> int:
    return max(-32768, min(32767, value))


class Random:
    def __init__(self) -> None:
        self.state = 1

    def noise(self, most: int) -> int:
        self.state = (self.state * 1_664_525 + 1_013_904_223) % 2**32
        return ((self.state >> 16) * (2 * most + 1) >> 16) - most


def part(kind: str, numbers: list[int], samples: int, random: Random, words: list[int]):
    phase, step, level = 0, 50 * 2**32 // RATE_HZ, 0
    for i in range(samples):
        if kind == "silence":
            yield 0
        elif kind == "noise":
            yield random.noise(numbers[0])
        elif kind == "clipped":
            yield cut(4 * random.noise(32767))
        elif kind == "square":
            yield 32767 if i // numbers[0] % 2 else -32768
        elif kind == "constant":
            yield numbers[0]
        elif kind == "sweep":
            phase, step = (phase + step) % 2**32, step + 6000
            yield ((phase >> 16) - 32768) * 20_000 >> 15
        elif kind == "impulses":
            yield 32767 if i % 1777 == 0 else 0
        elif kind == "steps":
            if i % 2500 == 0:
                level = random.noise(32767)
            yield level
        elif kind == "bursts":
            yield random.noise(20_000 if i // 4800 % 2 else 20)
        elif kind == "speech":
            yield cut((words[i % len(words)] * numbers[0] >> 8) + random.noise(numbers[1]))
        else:
            raise SystemExit(f"the plan has a part of an unknown kind: {kind}")


def sound(plan: str):
    """The samples of the plan of that name."""
    random, words = Random(), speech()
    for line in (FOLDER / f"{plan}.plan").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            seconds, kind, *numbers = line.split()
            yield from part(kind, [int(n) for n in numbers], int(seconds) * RATE_HZ, random, words)

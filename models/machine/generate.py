"""Generates the vibration of a rotating machine, as an accelerometer on its bearing gives it: normal, and with faults.

    python models/machine/generate.py FOLDER        # needs numpy only

Nothing was recorded: every number below is chosen, and the same seed gives the same files. The machine is a fan on an
induction motor at 50 Hz: about 24.6 turns a second, slower under load. The sensor is an ADXL345 at 800 Hz: x is horizontal,
y vertical, z along the shaft. The files have its counts, 0.0383072 m/s2 each (256 for 1 g). All accelerations here are in
m/s2, and amplitudes are peaks.

Normal vibration has harmonics of the rotation, the pass of seven blades, hum at twice the mains' frequency, and noise that
rings in the housing. Load and speed drift within a minute. The faults:

- outer_race: a ball strikes a defect in the outer race of a 6205 bearing 3.58 times a turn; each stroke rings in the housing
- imbalance: more of the rotation's own frequency, across the shaft
- misalignment: more of twice that frequency, across and along the shaft
- looseness: halves of the rotation's frequency, and many harmonics, whose size changes from turn to turn

The severity of a fault is the acceleration that it adds: the peak of a stroke, or the amplitude of the largest harmonic.
"""

import sys
import wave
from pathlib import Path

import numpy as np

SEED = 6205
RATE_HZ = 800
# Everything is computed at so many times the rate, and then filtered as the sensor does.
OVERSAMPLING = 8
COUNT = 0.0383072
GRAVITY = 9.80665
# The chip's full resolution is 13 bits.
MOST_COUNTS = 4095

MAINS_HZ = 50.0
# Part of the mains' 25 turns a second that the motor lags behind, without load and at full load.
SLIP = (0.005, 0.02)
# For each harmonic of the rotation the amplitude on x, y and z.
HARMONICS = {
    1: (0.30, 0.24, 0.08),
    2: (0.10, 0.08, 0.10),
    3: (0.05, 0.05, 0.03),
    4: (0.03, 0.02, 0.02),
    5: (0.02, 0.02, 0.01),
}
BLADES = 7
BLADE_PASS = (0.16, 0.12, 0.22)
HUM = (0.06, 0.09, 0.03)
# Standard deviation of the machine's noise, half of which is white, half rings.
NOISE = (0.12, 0.14, 0.10)
# Standard deviation of the sensor's noise in counts. The datasheet's upper limits at 100 Hz are 1 and, for z, 1.5; noise
# grows with the root of the rate, and a usual chip is better than the limit.
SENSOR_NOISE = (2.0, 2.0, 3.0)

HOUSING_HZ = 310.0
HOUSING_DAMPING = 0.05
# 6205: 9 balls of 7.94 mm on a circle of 39.04 mm.
STROKES_PER_TURN = 9 / 2 * (1 - 7.94 / 39.04)
STROKE_AXES = (0.5, 1.0, 0.3)
# How far a ball slips between two strokes, as a part of their distance.
BALL_SLIP = 0.01

SEVERITIES = {
    "outer_race": (0.25, 0.5, 1.0, 2.0),
    "imbalance": (0.05, 0.1, 0.2, 0.4),
    "misalignment": (0.05, 0.1, 0.2, 0.4),
    "looseness": (0.05, 0.1, 0.2, 0.4),
}

SESSION_S = 60
SESSIONS = {"training": 20, "validation": 5, "normal": 10}
# Begins the names of held-out sessions: they were drawn when the network and the range of its int8 input were already
# chosen, and for the figures of the card only.
HELD_OUT = {"normal": "held out ", "faults": "held out "}
# The two files of the example: normal, from which the threshold is learnt; and normal, then a fault.
LEARNING_S = 48
RECORDING_S = 20
ONSET_S = 8
RECORDING_FAULT = ("outer_race", 1.0)


def drift(random, time):
    """A slow change between -1 and 1."""
    periods = random.uniform(15, 60, 3)
    phases = random.uniform(0, 2 * np.pi, 3)
    return sum(np.sin(2 * np.pi * time / p + phase) for p, phase in zip(periods, phases)) / 3


def rings(signal, rate_hz):
    """What the housing makes of a force: its resonance, whose response to a stroke of 1 has a peak of about 1."""
    time = np.arange(int(0.1 * rate_hz)) / rate_hz
    angular = 2 * np.pi * HOUSING_HZ
    response = np.exp(-HOUSING_DAMPING * angular * time) * np.sin(angular * time)
    size = len(signal) + len(response)
    return np.fft.irfft(np.fft.rfft(signal, size) * np.fft.rfft(response, size), size)[: len(signal)]


def sensed(axis):
    """The samples that a chip with a filter below half its rate takes."""
    taps = np.arange(-64, 65)
    cutoff = 0.9 / OVERSAMPLING
    kernel = cutoff * np.sinc(cutoff * taps) * np.blackman(len(taps))
    return np.convolve(axis, kernel / kernel.sum(), mode="same")[::OVERSAMPLING]


def strokes(random, turns, load):
    """The force of a ball on the defect, and its ringing: one peak for each stroke."""
    force = np.zeros(len(turns))
    count = int(turns[-1] * STROKES_PER_TURN)
    places = (np.arange(count) + random.normal(0, BALL_SLIP, count)) / STROKES_PER_TURN
    at = np.searchsorted(turns, places)
    at = at[at < len(turns)]
    np.add.at(force, at, (0.6 + 0.6 * load[at]) * (1 + 0.3 * random.standard_normal(len(at))))
    return rings(force, RATE_HZ * OVERSAMPLING)


def fault(random, kind, turns, load):
    """What a fault of severity 1 adds on each axis."""
    angle = 2 * np.pi * turns
    if kind == "outer_race":
        stroke = strokes(random, turns, load)
        return [size * stroke for size in STROKE_AXES]
    if kind == "imbalance":
        return [np.sin(angle + 0.7), 0.8 * np.sin(angle + 0.7 - np.pi / 2), 0.1 * np.sin(angle)]
    if kind == "misalignment":
        twice = [size * np.sin(2 * angle + phase) for size, phase in [(0.8, 0.2), (0.7, 1.4), (1.0, 2.6)]]
        return [twice[0], twice[1], twice[2] + 0.4 * np.sin(angle + 1.0)]
    if kind == "looseness":
        orders = np.arange(0.5, 8.5, 0.5)
        # One size for each turn and order.
        sizes = random.normal(1.0, 0.4, (int(turns[-1]) + 1, len(orders))) / np.sqrt(2 * orders)
        turn = turns.astype(int)
        phases = random.uniform(0, 2 * np.pi, len(orders))
        sum_of = sum(sizes[turn, i] * np.sin(order * angle + phases[i]) for i, order in enumerate(orders))
        return [0.5 * sum_of, sum_of, 0.3 * sum_of]
    raise ValueError(f"{kind} is not a fault; there are {', '.join(SEVERITIES)}")


def session(name, seconds, kind=None, severity=0.0, onset_s=0.0):
    """Counts [samples, 3] of one stretch of operation; a fault begins at `onset_s`. `name` chooses the random numbers."""
    random = np.random.default_rng([SEED, *name.encode()])
    rate_hz = RATE_HZ * OVERSAMPLING
    time = np.arange(int(seconds * rate_hz)) / rate_hz
    load = 0.6 + 0.35 * drift(random, time)
    slip = SLIP[0] + (SLIP[1] - SLIP[0]) * load
    speed_hz = MAINS_HZ / 2 * (1 - slip) * (1 + 0.003 * drift(random, time))
    turns = random.uniform() + np.cumsum(speed_hz) / rate_hz
    angle = 2 * np.pi * turns
    faulty = fault(random, kind, turns, load) if kind else None
    axes = []
    # The machine is the same in all sessions, and so are the phases of its harmonics.
    phases = np.random.default_rng(SEED)
    for axis in range(3):
        signal = np.zeros(len(time))
        for order, sizes in HARMONICS.items():
            size = sizes[axis] * (1 + 0.08 * drift(random, time))
            signal += size * np.sin(order * angle + phases.uniform(0, 2 * np.pi))
        signal += BLADE_PASS[axis] * (0.4 + 0.8 * load) * np.sin(BLADES * angle + phases.uniform(0, 2 * np.pi))
        signal += HUM[axis] * np.sin(2 * np.pi * 2 * MAINS_HZ * time + random.uniform(0, 2 * np.pi))
        white, force = random.standard_normal((2, len(time)))
        ringing = rings(force, rate_hz)
        level = NOISE[axis] * (0.8 + 0.4 * load)
        # White noise loses what is above half the sensor's rate.
        signal += level * (np.sqrt(OVERSAMPLING / 2) * white + ringing / (np.sqrt(2) * ringing.std()))
        if faulty:
            signal += np.where(time >= onset_s, severity * faulty[axis], 0.0)
        axes.append(sensed(signal))
    gravity = GRAVITY * np.array([0.02, 1.0, -0.03])
    counts = (np.stack(axes, axis=1) + gravity) / COUNT + random.standard_normal((len(axes[0]), 3)) * SENSOR_NOISE
    return np.clip(np.round(counts), -MOST_COUNTS - 1, MOST_COUNTS).astype(np.int16)


def write_wav(path, counts):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(counts.shape[1])
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(counts.astype("<i2").tobytes())


def write_csv(path, counts, onset_s):
    """With the time and the true state of each sample."""
    lines = ["time_s,ax,ay,az,state"]
    for place, (x, y, z) in enumerate(counts):
        time = place / RATE_HZ
        lines.append(f"{time:g},{x},{y},{z},{'anomaly' if time >= onset_s else 'normal'}")
    path.write_text("\n".join(lines) + "\n")


def faults():
    """The kind and the severity of each recording of a fault, by its name."""
    numbered = [(kind, *of) for kind, severities in SEVERITIES.items() for of in enumerate(severities, 1)]
    return {f"{kind}_{number}": (kind, severity) for kind, number, severity in numbered}


def write_sessions(folder, uses):
    """Writes the sessions for these uses, of `SESSIONS` or "faults"; returns their paths by use."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {use: [] for use in uses}

    def write(use, name, *of):
        paths[use].append(folder / f"{name}.wav")
        write_wav(paths[use][-1], session(HELD_OUT.get(use, "") + name, SESSION_S, *of))

    for use in uses:
        if use == "faults":
            for name, of in faults().items():
                write(use, name, *of)
        else:
            for number in range(1, SESSIONS[use] + 1):
                write(use, f"{use}_{number:02}")
    return paths


def recording():
    """The example's recording: normal, then a fault."""
    return session("recording", RECORDING_S, *RECORDING_FAULT, onset_s=ONSET_S)


def write_example(folder):
    """Writes the recordings of examples/machine-anomaly."""
    write_wav(folder / "normal.wav", session("learning", LEARNING_S))
    write_csv(folder / "recording.csv", recording(), ONSET_S)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = Path(sys.argv[1])
    write_sessions(target, [*SESSIONS, "faults"])
    write_example(target)

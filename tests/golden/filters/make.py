#!/usr/bin/env python3
"""Makes the golden vectors of this folder: what SciPy makes of a few signals.

    python3 -m venv venv && venv/bin/pip install --only-binary :all: --require-hashes -r requirements.txt
    venv/bin/python make.py

Each case is an entry of cases.json: the front end in TOML, the line of Python that it stands for, the signal's rate and
its number. SIGNAL.f32 and NAME.f32 hold little-endian floats, of one channel. It was run with Python 3.11 on x86-64.
"""

import json
import pathlib

import numpy as np
from scipy import signal
from scipy.signal import butter, cheby1, decimate, firwin, resample_poly, sosfilt, sosfilt_zi

HERE = pathlib.Path(__file__).parent


def save(name, values):
    values = np.asarray(values, "<f4")
    (HERE / f"{name}.f32").write_bytes(values.tobytes())
    return values.astype("f8")


def tones(rate, seconds, parts):
    time = np.arange(int(rate * seconds)) / rate
    return sum(level * np.sin(2 * np.pi * hz * time + hz) for hz, level in parts)


random = np.random.default_rng(7)


def noise(rate, seconds, below_hz):
    """Noise that has nothing above a frequency."""
    sos = signal.cheby2(12, 120, below_hz, fs=rate, output="sos")
    return signal.sosfiltfilt(sos, random.standard_normal(int(rate * seconds)))


# An accelerometer: gravity, a movement, noise.
MOVEMENT = save("movement", 9.81 + tones(104, 4, [(1.3, 2.0), (17.0, 0.5)]) + 0.3 * random.standard_normal(416))
# The same from zeros, for what starts at rest.
FROM_ZERO = save("from_zero", np.concatenate([np.zeros(16), MOVEMENT[:400]]))
SOUND = {
    44100: save("sound_44100", tones(44100, 0.06, [(440, 0.3), (5900, 0.2)]) + 0.3 * noise(44100, 0.06, 6000)),
    48000: save("sound_48000", tones(48000, 0.06, [(440, 0.3), (5900, 0.2)]) + 0.3 * noise(48000, 0.06, 6000)),
    16000: save("sound_16000", tones(16000, 0.1, [(440, 0.3), (5900, 0.2)]) + 0.3 * noise(16000, 0.1, 6000)),
}
CASES = []


def case(name, rate, of, python, frontend):
    """Adds a case. `of` names the signal, which is `x` of the line of Python."""
    x = np.fromfile(HERE / f"{of}.f32", "<f4").astype("f8")
    save(name, eval(python, {**globals(), "x": x}))
    CASES.append({"name": name, "rate": rate, "signal": of, "python": python, "frontend": frontend})


def settled(name, design, keys):
    python = f"sosfilt({design}, x, zi=sosfilt_zi({design}) * x[0])[0]"
    case(name, 104.0, "movement", python, f"filter = {{ {keys} }}")


settled("low_4", 'butter(4, 5, "low", fs=104, output="sos")', "high_hz = 5.0")
settled("low_1", 'butter(1, 51, "low", fs=104, output="sos")', "high_hz = 51.0, order = 1")
settled("low_10", 'butter(10, 0.5, "low", fs=104, output="sos")', "high_hz = 0.5, order = 10")
settled("high_3", 'butter(3, 0.3, "high", fs=104, output="sos")', "low_hz = 0.3, order = 3")
settled("band_2", 'butter(2, [0.5, 20], "bandpass", fs=104, output="sos")', "low_hz = 0.5, high_hz = 20.0, order = 2")
settled("band_5", 'butter(5, [0.1, 45], "bandpass", fs=104, output="sos")', "low_hz = 0.1, high_hz = 45.0, order = 5")
settled("stop_4", 'butter(4, [15, 19], "bandstop", fs=104, output="sos")', "low_hz = 15.0, high_hz = 19.0, stop = true")
settled("stop_3", 'butter(3, [0.2, 40], "bandstop", fs=104, output="sos")', "low_hz = 0.2, high_hz = 40.0, stop = true, order = 3")
case(
    "low_rest", 104.0, "movement", 'sosfilt(butter(6, 10, fs=104, output="sos"), x)',
    'filter = { high_hz = 10.0, order = 6, start = "rest" }',
)
case(
    "band_rest", 104.0, "movement", 'sosfilt(butter(3, [1, 10], "bandpass", fs=104, output="sos"), x)',
    'filter = { low_hz = 1.0, high_hz = 10.0, order = 3, start = "rest" }',
)
for factor in [2, 3, 10]:
    keys = f'decimate = {{ factor = {factor}, method = "chebyshev" }}'
    design = f'cheby1(8, 0.05, 0.8 / {factor}, output="sos")'
    case(
        f"decimate_{factor}", 104.0, "movement",
        f"sosfilt({design}, x, zi=sosfilt_zi({design}) * x[0])[0][::{factor}]", keys,
    )
    case(f"decimate_{factor}_zero", 104.0, "from_zero", f"decimate(x, {factor}, zero_phase=False)", keys)
# resample_poly with a filter that is sharp enough to leave all below 6 kHz as it is.
for rate, up, down, to in [(44100, 160, 441, 16000), (48000, 1, 3, 16000), (16000, 441, 160, 44100), (16000, 7, 8, 14000)]:
    most = max(up, down)
    window = f'firwin(2 * 200 * {most} + 1, 1 / {most}, window=("kaiser", 12))'
    name = f"resample_{rate}_{to}"
    case(name, float(rate), f"sound_{rate}", f"resample_poly(x, {up}, {down}, window={window})", f"resample = {{ rate_hz = {to}.0 }}")

(HERE / "cases.json").write_text(json.dumps(CASES, indent=1) + "\n")

"""Writes vectors.json: what Edge Impulse's own Python makes of a few signals. README.md shows how it is run."""

import importlib
import json
import os
import subprocess
import sys
import types

import numpy as np

COMMIT = "9b0ceb2b5d22658d3193a5b77dc773cfc8d4cab0"

# Plots and the peaks of spectral analysis 1, which are not used.
UNUSED = ["peakutils", "matplotlib", "matplotlib.cm", "matplotlib.pyplot"]


def block(repository, name):
    """Returns the function of a block. All blocks have modules of the same names."""
    for module in [m for m in sys.modules if m.split(".")[0] in ("common", "third_party", "speechpy", "dsp")]:
        del sys.modules[module]
    sys.path.insert(0, f"{repository}/{name}")
    try:
        return importlib.import_module("dsp").generate_features
    finally:
        sys.path.pop(0)


def stub(name):
    module = types.ModuleType(name)
    module.use = lambda backend: None
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)


def audio():
    """Returns windows of 8 kHz sound, as 16-bit integers."""
    random = np.random.default_rng(1)
    samples = 1000
    time = np.arange(samples) / 8000
    tone = 8000 * np.sin(2 * np.pi * 440 * time) + 3000 * np.sin(2 * np.pi * 2750 * time)
    pitch = 2 * np.pi * np.cumsum(110 + 30 * np.sin(2 * np.pi * 4 * time)) / 8000
    voice = sum(np.sin(n * pitch) * np.exp(-(((n * 110 - f) / 200) ** 2)) for n in range(1, 30) for f in (500, 1500, 2500))
    voice = voice * np.sin(np.pi * time / time[-1]) * 4000 + random.normal(0, 20, samples)
    return {
        "noise": random.normal(0, 1500, samples),
        "tones": tone,
        "silence": np.zeros(samples),
        "clipped": 32767 * np.sign(np.sin(2 * np.pi * 1900 * time)),
        "speech": voice,
    }


def motion():
    """Returns windows of 3 axes at 62.5 Hz, in steps of 0.01 m/s2."""
    random = np.random.default_rng(2)
    samples = 130
    time = np.arange(samples) / 62.5
    noise = random.normal(0, 5, (samples, 3))
    wave = np.stack([300 * np.sin(2 * np.pi * 1.7 * time), 150 * np.sin(2 * np.pi * 5.3 * time + 1), 981 + 80 * np.sin(2 * np.pi * 11 * time)], axis=1)
    shock = np.zeros((samples, 3))
    shock[40:43] = [[1500, -400, 1962], [-1962, 900, -700], [600, -300, 200]]
    rest = np.tile([3, -12, 981], (samples, 1))
    return {"waves": wave + noise, "shock": shock + noise, "rest": rest, "zeros": np.zeros((samples, 3))}


def vibration():
    """Returns a window of one axis at 1 kHz that is long enough for every decimation."""
    random = np.random.default_rng(3)
    time = np.arange(2600) / 1000
    return np.round(1000 * np.sin(2 * np.pi * 7 * time) + 400 * np.sin(2 * np.pi * 30 * time) + random.normal(0, 100, 2600))


SPECTRAL = dict(
    scale_axes=1, input_decimation_ratio=1, filter_type="none", filter_cutoff=3.0, filter_order=6, analysis_type="FFT",
    fft_length=16, do_log=True, do_fft_overlap=True, extra_low_freq=False,
)
SPECTRAL_UNUSED = dict(
    spectral_peaks_count=0, spectral_peaks_threshold=0, spectral_power_edges="0", wavelet_level=1, wavelet="db4",
)
MFE = dict(
    frame_length=0.02, frame_stride=0.01, num_filters=20, fft_length=256, low_frequency=0, high_frequency=0, win_size=101,
    noise_floor_db=-52,
)
MFCC = dict(
    frame_length=0.02, frame_stride=0.02, num_filters=20, fft_length=256, num_cepstral=13, win_size=101, low_frequency=0,
    high_frequency=0, pre_cof=0.98, pre_shift=1,
)
SPECTROGRAM = dict(frame_length=0.02, frame_stride=0.02, fft_length=64, noise_floor_db=-52)
FLATTEN = dict(
    scale_axes=1, average=True, minimum=True, maximum=True, rms=True, stdev=True, skewness=True, kurtosis=True,
)

MOTION_CASES = [
    ("spectral_analysis", 2, {}),
    ("spectral_analysis", 3, dict(do_log=False, do_fft_overlap=False, fft_length=32, scale_axes=0.5)),
    ("spectral_analysis", 4, {}),
    ("spectral_analysis", 4, dict(fft_length=64, filter_type="none")),
    ("flatten", 1, {}),
    ("flatten", 1, dict(scale_axes=0.1, minimum=False, stdev=False)),
]
# What a filter leaves of an axis that does not change is rounding, so only signals that change are filtered.
FILTER_CASES = [
    ("spectral_analysis", 2, dict(filter_type="high", filter_cutoff=2.5, filter_order=4)),
    ("spectral_analysis", 4, dict(filter_type="low", filter_cutoff=8.0)),
    ("spectral_analysis", 4, dict(filter_type="low", filter_cutoff=8.0, filter_order=0)),
    ("spectral_analysis", 4, dict(filter_type="low", filter_cutoff=5.0, filter_order=8, input_decimation_ratio=3)),
    ("spectral_analysis", 4, dict(extra_low_freq=True)),
    ("spectral_analysis", 4, dict(filter_type="high", filter_cutoff=1.0, filter_order=2, extra_low_freq=True)),
]
VIBRATION_CASES = [
    ("spectral_analysis", 4, dict(input_decimation_ratio=10, fft_length=32)),
    ("spectral_analysis", 4, dict(input_decimation_ratio=30, filter_type="low", filter_cutoff=10.0)),
    ("spectral_analysis", 4, dict(input_decimation_ratio=10, extra_low_freq=True)),
    ("spectral_analysis", 4, dict(input_decimation_ratio=100)),
    ("spectral_analysis", 4, dict(filter_type="low", filter_cutoff=40.0, fft_length=256)),
]
AUDIO_CASES = [
    ("mfe", 1, {}),
    ("mfe", 2, dict(win_size=5, low_frequency=200, high_frequency=3500)),
    ("mfe", 3, dict(frame_length=0.025)),
    ("mfe", 4, {}),
    ("mfe", 4, dict(frame_length=0.04, fft_length=128, noise_floor_db=-70, low_frequency=80)),
    ("mfcc", 1, dict(pre_shift=2)),
    ("mfcc", 3, dict(win_size=3, pre_cof=0.5)),
    ("mfcc", 4, {}),
    ("mfcc", 4, dict(win_size=0, num_cepstral=20, frame_stride=0.01, low_frequency=80, high_frequency=3800)),
    ("spectrogram", 2, {}),
    ("spectrogram", 3, {}),
    ("spectrogram", 4, dict(noise_floor_db=-20)),
]
DEFAULTS = dict(spectral_analysis=SPECTRAL, mfe=MFE, mfcc=MFCC, spectrogram=SPECTROGRAM, flatten=FLATTEN)
UNUSED_KEYS = dict(spectral_analysis=SPECTRAL_UNUSED, spectrogram=dict(show_axes=False))


def toml(value):
    return json.dumps(value) if not isinstance(value, float) else repr(value)


def main(repository):
    commit = subprocess.check_output(["git", "-C", repository, "rev-parse", "HEAD"], text=True).strip()
    assert commit == COMMIT, f"the vectors are of commit {COMMIT}, this is {commit}"
    for name in UNUSED:
        stub(name)
    functions = {name: block(repository, name) for name in DEFAULTS}

    signals, cases = {}, []

    def add(name, values, rate_hz, scale, wanted):
        values = np.round(values).astype(int).reshape(len(values), -1)
        channels = values.shape[1]
        signals[name] = dict(rate_hz=rate_hz, channels=channels, scale=scale, values=values.flatten().tolist())
        # What a 32-bit float makes of the step is what the sensor's stream has.
        raw = (values.flatten().astype(np.float32) * np.float32(scale)).astype(float)
        for kind, version, changes in wanted:
            keys = DEFAULTS[kind] | changes
            axes = [str(axis) for axis in range(channels)]
            processed = functions[kind](version, False, raw.copy(), axes, rate_hz, **keys, **UNUSED_KEYS.get(kind, {}))
            # Keys that the block does not have in that version are left out.
            hidden = [] if kind != "spectral_analysis" or version == 4 else ["input_decimation_ratio", "extra_low_freq"]
            text = ", ".join(f"{key} = {toml(value)}" for key, value in keys.items() if key not in hidden)
            features = [float(f"{feature:.8g}") for feature in processed["features"]]
            cases.append(dict(signal=name, block=f"{{ {kind} = {{ version = {version}, {text} }} }}", features=features))

    for name, values in motion().items():
        add(name, values, 62.5, 0.01, MOTION_CASES + (FILTER_CASES if name in ("waves", "shock") else []))
    add("vibration", vibration(), 1000, 0.01, VIBRATION_CASES)
    for name, values in audio().items():
        add(name, values, 8000, 1.0, AUDIO_CASES)
    add("quiet", audio()["noise"] / 3000, 8000, 1.0, [("spectrogram", 3, {}), ("mfe", 4, {})])

    lines = [json.dumps(name) + ":" + json.dumps(signal, separators=(",", ":")) for name, signal in signals.items()]
    rows = [json.dumps(case, separators=(",", ":")) for case in cases]
    text = '{"signals":{\n' + ",\n".join(lines) + '\n},"cases":[\n' + ",\n".join(rows) + "\n]}\n"
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors.json"), "w") as file:
        file.write(text)
    print(f"{len(cases)} cases, numpy {np.__version__}")


main(sys.argv[1])

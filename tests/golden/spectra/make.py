#!/usr/bin/env python3
"""Makes the golden spectra of this folder: what librosa and TensorFlow make of two recordings.

    python3 -m venv venv && venv/bin/pip install --only-binary :all: --require-hashes -r requirements.txt
    venv/bin/python make.py

The recordings are made too, with espeak-ng (1.51) and a fixed seed, unless they are there. Each case is a line of
cases.json: the keys in TOML, the line of Python that they stand for, and which values are in NAME.f32 (little-endian).
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import wave

import librosa
import numpy as np
import tensorflow as tf

HERE = pathlib.Path(__file__).parent


def recording(rate):
    """Noise, a tone, silence, a clipped tone, speech: as integers of 16 bits."""
    path = HERE / f"sound_{rate}.wav"
    if not path.exists():
        random = np.random.default_rng(rate)
        time = np.arange(rate // 5) / rate
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            subprocess.run(["espeak-ng", "-v", "en", "-s", "190", "-w", file.name, "yes, seven"], check=True)
            speech = librosa.load(file.name, sr=rate)[0][: rate * 3 // 5]
        parts = [
            0.1 * random.standard_normal(rate // 5),
            0.5 * np.sin(2 * np.pi * 1000 * time),
            np.zeros(rate // 5),
            3.0 * np.sin(2 * np.pi * 440 * time),
            speech,
        ]
        samples = (np.clip(np.concatenate(parts), -1, 1) * 32767).astype("<i2")
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(samples.tobytes())
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return (samples / 32768).astype("f4")


Y22 = recording(22050)
Y16 = recording(16000)
CASES = []


def case(kind, name, rate, python, frontend, every=1, features=None, window=None):
    """Adds a case. `kind` says what the values are. `python` gives [frames, values]. A case with a window (first sample, samples) has features."""
    y = {22050: Y22, 16000: Y16}[rate]
    if window:
        y = y[window[0] : window[0] + window[1]]
    names = {"y": y, "sr": rate, "librosa": librosa, "np": np, "tf": tf, "sys": sys}
    values = np.asarray(eval(python, names), "f4")
    kept = values[::every]
    (HERE / f"{name}.f32").write_bytes(kept.astype("<f4").tobytes())
    CASES.append(
        {
            "kind": kind,
            "name": name,
            "rate": rate,
            "python": " ".join(python.split()),
            "frontend": frontend,
            "features": features or [],
            "window": window,
            "frames": len(values),
            "every": every,
        }
    )


MEL = "librosa.feature.melspectrogram(y=y, sr=sr, center=False{})"
DB = "librosa.power_to_db({}, top_db=None)"


def stft(frame, hop, more="", convention="librosa"):
    keys = f'convention = "{convention}", frame_length = {frame}, hop_length = {hop}'
    return f"stft = {{ {keys}{more} }}"


def mel(keys=""):
    return f"log_mel = {{ {keys} }}"


def mfcc(keys=""):
    return f"mfcc = {{ {keys} }}"


# librosa, without the ends of a clip.
case(
    "db", "librosa_mel_22050", 22050, DB.format(MEL.format("")) + ".T", [stft(2048, 512), mel()], every=3)
case(
    "power", "librosa_mel_16000", 16000, MEL.format("") + ".T", [stft(2048, 512), mel('log = "none"')], every=3)
case(
    "magnitude", "librosa_stft_hamming", 16000,
    'np.abs(librosa.stft(y, n_fft=512, win_length=401, hop_length=160, window="hamming", center=False)).T',
    [stft(401, 160, ', fft_length = 512, window = "hamming", power = 1')], every=12,
)
HTK = ", n_fft=512, win_length=400, hop_length=160, n_mels=40, fmin=20, fmax=7600, htk=True, norm=None"
HTK_TOML = [stft(400, 160, ", fft_length = 512"), 'n_mels = 40, fmin = 20.0, fmax = 7600.0, scale = "htk", norm = "none"']
case(
    "db", "librosa_htk", 16000, DB.format(MEL.format(HTK)) + ".T", [HTK_TOML[0], mel(HTK_TOML[1])], every=7)
case(
    "mfcc_db", "librosa_mfcc_13", 16000, f"librosa.feature.mfcc(S={DB.format(MEL.format(HTK))}, n_mfcc=13).T",
    [HTK_TOML[0], mel(HTK_TOML[1]), mfcc("n_mfcc = 13")], every=7,
)
case(
    "mfcc_db", "librosa_mfcc_20", 22050, f"librosa.feature.mfcc(S={DB.format(MEL.format(''))}).T",
    [stft(2048, 512), mel(), mfcc()], every=2,
)
case(
    "mfcc_db", "librosa_mfcc_40_lifter", 16000, f"librosa.feature.mfcc(S={DB.format(MEL.format(', n_fft=1024'))}, n_mfcc=40, lifter=22).T",
    [stft(1024, 512), mel(), mfcc("n_mfcc = 40, lifter = 22.0")], every=3,
)
case(
    "mfcc_db", "librosa_mfcc_unscaled", 16000, f"librosa.feature.mfcc(S={DB.format(MEL.format(', n_fft=1024'))}, norm=None).T",
    [stft(1024, 512), mel(), mfcc('norm = "none"')], every=5,
)
# MLPerf Tiny, anomaly detection.
AD = "10 * np.log10({} + sys.float_info.epsilon).T"
case(
    "db", "mlperf_ad", 16000, AD.format(MEL.format(", n_fft=1024, hop_length=512, n_mels=128, power=2.0")),
    [stft(1024, 512), mel("offset = 2.220446e-16")], every=4,
)

# Whole clips, with their ends.
CLIP = (8000, 22050)
case(
    "db", "librosa_clip_db", 22050, "librosa.power_to_db(librosa.feature.melspectrogram(y=y, sr=sr), ref=np.max).T", [],
    features=[f'clip = {{ frontend = [{{ {stft(2048, 512)} }}, {{ log_mel = {{ log = "none" }} }}] }}', 'power_to_db = { ref = "max" }'],
    window=CLIP, every=5,
)
case(
    "mfcc_db", "librosa_clip_mfcc", 22050, "librosa.feature.mfcc(y=y, sr=sr).T", [],
    features=[f'clip = {{ frontend = [{{ {stft(2048, 512)} }}, {{ log_mel = {{ log = "none" }} }}] }}', "power_to_db = {}", "mfcc = {}"],
    window=CLIP, every=2,
)
case(
    "magnitude", "librosa_clip_reflect", 16000, 'np.abs(librosa.stft(y, n_fft=512, hop_length=256, pad_mode="reflect")).T', [],
    features=[f'clip = {{ frontend = [{{ {stft(512, 256, ", power = 1")} }}], pad_mode = "reflect" }}'],
    window=(1000, 4000), every=2,
)

# TensorFlow.
TF = "tensorflow"
case(
    "magnitude", "tf_simple_audio", 16000, "tf.abs(tf.signal.stft(y, frame_length=255, frame_step=128))",
    [stft(255, 128, convention=TF)], every=8,
)
case(
    "ln", "tf_log_mel", 16000,
    """tf.math.log(tf.tensordot(tf.abs(tf.signal.stft(y, 400, 160)),
        tf.signal.linear_to_mel_weight_matrix(num_spectrogram_bins=257, sample_rate=sr), 1) + 1e-6)""",
    [stft(400, 160, convention=TF), mel()], every=4,
)
case(
    "mfcc", "mlperf_kws", 16000,
    """tf.signal.mfccs_from_log_mel_spectrograms(tf.math.log(tf.tensordot(tf.abs(tf.signal.stft(y, 480, 320)),
        tf.signal.linear_to_mel_weight_matrix(40, 257, sr, 20.0, 4000.0), 1) + 1e-6))[..., :10]""",
    [stft(480, 320, convention=TF), mel("n_mels = 40, fmin = 20.0, fmax = 4000.0"), mfcc("n_mfcc = 10")],
)

(HERE / "cases.json").write_text("[\n" + ",\n".join(json.dumps(one) for one in CASES) + "\n]\n")

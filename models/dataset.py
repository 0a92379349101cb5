"""The shoulder-exercise recordings: where they come from, how they are cut and augmented."""

import csv
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

RATE_HZ = 50
WINDOW = 200
HOP = 50
CHANNELS = ["ax", "ay", "az", "wx", "wy", "wz"]
UNITS = ["g", "g", "g", "rad/s", "rad/s", "rad/s"]
GAP_S = 2.0

# Reflection that turns a left wrist into a right one. Acceleration is a polar
# vector and angular velocity an axial one, so they change sign on opposite axes.
MIRROR = np.array([-1, 1, 1, 1, -1, -1], np.float32)


@dataclass(frozen=True)
class Recording:
    """One set of one exercise, done by one subject with one arm."""

    subject: int
    side: str
    label: int
    samples: np.ndarray


def package_folder():
    """Folder of the installed seglearn package, found without importing it (and SciPy)."""
    spec = importlib.util.find_spec("seglearn")
    if spec is None:
        raise SystemExit("seglearn is missing: pip install --require-hashes -r requirements.txt")
    return Path(spec.submodule_search_locations[0])


def load():
    """All recordings, ordered by subject, then right arm before left, then exercise."""
    path = package_folder() / "data" / "watch_dataset.npy"
    # The file is a pickled dictionary; its hash is fixed by requirements.txt.
    raw = np.load(path, allow_pickle=True).item()
    if list(raw["X_labels"]) != CHANNELS:
        raise SystemExit(f"unexpected channels {raw['X_labels']}")
    recordings = [
        Recording(int(subject), "right" if side == 1 else "left", int(label), samples.astype(np.float32))
        for samples, label, subject, side in zip(raw["X"], raw["y"], raw["subject"], raw["side"])
    ]
    recordings.sort(key=lambda r: (r.subject, r.side != "right", r.label))
    return recordings, list(raw["y_labels"])


def statistics(recordings):
    """Mean and standard deviation of each channel."""
    samples = np.concatenate([r.samples for r in recordings]).astype(np.float64)
    return samples.mean(0).astype(np.float32), samples.std(0).astype(np.float32)


def window_starts(length, hop=HOP):
    return range(0, length - WINDOW + 1, hop)


def windows(recordings, hop=HOP):
    """Raw windows [n, WINDOW, 6] with the label and the subject of each."""
    cut = [
        (r.samples[s : s + WINDOW], r.label, r.subject) for r in recordings for s in window_starts(len(r.samples), hop)
    ]
    samples, labels, subjects = zip(*cut)
    return np.stack(samples), np.array(labels), np.array(subjects)


def random_rotations(rng, count, spread):
    """Rotation matrices about random axes, by angles of standard deviation `spread` rad."""
    axis = rng.normal((count, 3))
    axis /= tf.norm(axis, axis=1, keepdims=True)
    x, y, z = tf.unstack(axis, axis=1)
    zero = tf.zeros_like(x)
    cross = tf.reshape(tf.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1), (count, 3, 3))
    angle = rng.normal((count, 1, 1)) * spread
    return tf.eye(3) + tf.sin(angle) * cross + (1 - tf.cos(angle)) * (cross @ cross)


class Sampler:
    """Draws augmented, standardised training batches from whole recordings."""

    def __init__(self, recordings, mean, std, classes, options, seed):
        lengths = [len(r.samples) for r in recordings]
        self.samples = tf.constant(np.concatenate([r.samples for r in recordings]))
        self.lengths = tf.constant(lengths, tf.float32)
        self.offsets = tf.constant(np.cumsum([0] + lengths[:-1]), tf.int32)
        self.labels = tf.constant([r.label for r in recordings])
        self.mean, self.std = tf.constant(mean), tf.constant(std)
        self.classes = classes
        self.options = options
        self.rng = tf.random.Generator.from_seed(seed)

    def draw(self):
        """Every recording is equally likely, so slow performers do not weigh more."""
        batch = self.options["batch"]
        which = self.rng.uniform((batch,), 0, len(self.labels), tf.int32)
        x = self.distort(self.cut(which))
        y = tf.one_hot(tf.gather(self.labels, which), self.classes)
        # Mixing with the neighbour in the batch: the draw is random, so is the pair.
        share = self.rng.uniform((batch, 1), 0, self.options["mixup"])
        x = (1 - share[..., None]) * x + share[..., None] * tf.roll(x, 1, 0)
        y = (1 - share) * y + share * tf.roll(y, 1, 0)
        return x[:, :, None, :], y

    def cut(self, which):
        """Windows at random places, played at a random speed by linear interpolation."""
        length = tf.gather(self.lengths, which)
        limit = self.options["time_warp"]
        speed = tf.exp(self.rng.uniform(which.shape, -limit, limit))
        speed = tf.minimum(speed, (length - 2) / WINDOW)
        start = self.rng.uniform(which.shape) * (length - 1 - speed * (WINDOW - 1))
        place = start[:, None] + speed[:, None] * tf.range(WINDOW, dtype=tf.float32)
        whole = tf.floor(place)
        index = tf.cast(whole, tf.int32) + tf.gather(self.offsets, which)[:, None]
        part = (place - whole)[..., None]
        x = (1 - part) * tf.gather(self.samples, index) + part * tf.gather(self.samples, index + 1)
        # Moving faster turns faster too; gravity, most of the acceleration, stays.
        rate = tf.repeat(speed[:, None, None], 3, 2)
        return x * tf.concat([tf.ones_like(rate), rate], 2)

    def distort(self, x):
        """Other arm, other fit of the watch, other strength, sensor noise."""
        batch, options = self.options["batch"], self.options
        flip = self.rng.uniform((batch, 1, 1)) < 0.5
        x = tf.where(flip, x * MIRROR, x)
        turn = random_rotations(self.rng, batch, options["rotation"])
        accel, gyro = x[..., :3] @ turn, x[..., 3:] @ turn
        accel *= 1 + options["accel_scale"] * self.rng.normal((batch, 1, 3))
        gyro *= tf.exp(options["gyro_scale"] * self.rng.normal((batch, 1, 1)))
        x = (tf.concat([accel, gyro], 2) - self.mean) / self.std
        level = options["noise"] * self.rng.uniform((batch, 1, 1))
        return x + level * self.rng.normal(x.shape)


def write_csv(path, recordings, labels):
    """One table of all recordings in turn, GAP_S of silence between them."""
    start = 0
    with open(path, "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["time_s", *CHANNELS, "exercise"])
        for r in recordings:
            for i, row in enumerate(r.samples):
                time = (start + i) / RATE_HZ
                out.writerow([f"{time:.2f}", *(f"{v:.4f}" for v in row), labels[r.label]])
            start += len(r.samples) - 1 + round(GAP_S * RATE_HZ)


def read_csv(path, labels):
    """Samples, label of each row and the first rows of the stretches without a gap."""
    with open(path, newline="") as file:
        rows = list(csv.reader(file))[1:]
    time = np.array([float(r[0]) for r in rows])
    samples = np.array([[float(v) for v in r[1:7]] for r in rows], np.float32)
    truth = np.array([labels.index(r[7]) for r in rows])
    breaks = np.flatnonzero(np.diff(time) > 1.5 / RATE_HZ) + 1
    return samples, truth, [0, *breaks.tolist()]

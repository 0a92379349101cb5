"""Writes the demo's windows for optimise.py: nine subjects to learn from, and the recording of the tenth to test on.

    python models/optimise/demo_data.py FOLDER
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
MODELS = Path(__file__).resolve().parent.parent
sys.path.append(str(MODELS))

import numpy as np

from dataset import HOP, load, statistics, windows
from evaluate import Stream


def main(folder):
    recordings, labels = load()
    held_out = max(r.subject for r in recordings)
    learning = [r for r in recordings if r.subject != held_out]
    mean, std = statistics(learning)
    folder.mkdir(parents=True, exist_ok=True)
    samples, truth, _ = windows(learning, HOP // 2)
    np.savez(folder / "learning.npz", windows=(samples - mean) / std, labels=truth)
    stream = Stream(MODELS / "shoulder_recording.csv", labels, mean, std)
    np.savez(folder / "recording.npz", windows=stream.windows, labels=stream.truth)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

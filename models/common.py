"""What every training script needs: the same files from a second run, and what it ran with."""

import json
import platform
from pathlib import Path

import numpy as np
import tensorflow as tf


def repeatable(seed):
    """Same machine, same files: fixed seeds, fixed threads, deterministic kernels."""
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(2)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def shortest(values):
    """The shortest decimals that read back as the same float32."""
    return [float(str(v)) for v in values]


def versions():
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": tf.keras.__version__,
        "numpy": np.__version__,
    }


def processor():
    """Model name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())

"""What the exported models answer on the recording, exactly as the daemon would ask them."""

import numpy as np

from dataset import WINDOW, read_csv, window_starts
from runner import RESOLVERS, Runner, gzip_bytes, sha256, tensor_facts
from tflite import sparsity

SMOOTH = 3


class Stream:
    """Windows of the recording: afresh after each gap, then one every HOP samples."""

    def __init__(self, path, labels, mean, std):
        samples, truth, breaks = read_csv(path, labels)
        standard = (samples - mean) / std
        ends = [*breaks[1:], len(samples)]
        self.rows = [b + s for b, e in zip(breaks, ends) for s in window_starts(e - b)]
        self.stretch = [i for i, (b, e) in enumerate(zip(breaks, ends)) for _ in window_starts(e - b)]
        self.windows = np.stack([standard[r : r + WINDOW] for r in self.rows])
        self.truth = truth[self.rows]
        self.samples = len(samples)
        self.stretches = len(breaks)

    def smooth(self, probabilities):
        """Mean over the last SMOOTH windows since the gap, fewer at the start."""
        means = []
        for i, stretch in enumerate(self.stretch):
            first = max(i - SMOOTH + 1, self.stretch.index(stretch))
            means.append(probabilities[first : i + 1].mean(0))
        return np.array(means)


def score(predicted, truth):
    correct = int((predicted == truth).sum())
    return {"correct": correct, "accuracy": correct / len(truth)}


def confusion(predicted, truth, classes):
    table = np.zeros((classes, classes), int)
    np.add.at(table, (truth, predicted), 1)
    return table.tolist()


def same_in_batches(content, windows, size=8):
    """Largest difference between the answers one by one and in batches, raw output units."""
    count = len(windows) // size * size
    many = Runner(content, batch=size)
    single = Runner(content).each(windows[:count])
    batched = np.concatenate([many.raw(windows[i : i + size]) for i in range(0, count, size)])
    return float(np.abs(single.astype(np.float64) - batched.astype(np.float64)).max())


def evaluate(path, stream, classes):
    """Everything the card says of one exported file, and its raw outputs."""
    content = path.read_bytes()
    runners = {name: Runner(content, name) for name in RESOLVERS}
    raw = {name: runner.each(stream.windows) for name, runner in runners.items()}
    xnnpack = runners["xnnpack"]
    probabilities = xnnpack.dequantise(raw["xnnpack"])
    choice = {name: r.argmax(1) for name, r in raw.items()}
    difference = np.abs(raw["xnnpack"].astype(np.float64) - raw["builtin"].astype(np.float64))
    result = {
        "file": path.name,
        "bytes": len(content),
        "gzip_bytes": gzip_bytes(content),
        "sha256": sha256(path),
        "input": tensor_facts(xnnpack.input),
        "output": tensor_facts(xnnpack.output),
        "operators": runners["builtin"].operators(),
        "operators_left_by_xnnpack": xnnpack.left_to_builtin(),
        **score(choice["xnnpack"], stream.truth),
        "smooth3": score(stream.smooth(probabilities).argmax(1), stream.truth),
        "confusion": confusion(choice["xnnpack"], stream.truth, classes),
        "builtin_kernels": {
            **score(choice["builtin"], stream.truth),
            "smooth3": score(stream.smooth(xnnpack.dequantise(raw["builtin"])).argmax(1), stream.truth),
            "windows_with_another_argmax": int((choice["builtin"] != choice["xnnpack"]).sum()),
            "largest_output_difference": float(difference.max()),
        },
        "batch8_largest_output_difference": same_in_batches(content, stream.windows),
        "sparsity": sparsity(content),
    }
    return result, raw


def timing(path):
    content = path.read_bytes()
    return {
        "xnnpack_us": Runner(content).microseconds(),
        "xnnpack_batch8_us": Runner(content, batch=8).microseconds(500),
        "builtin_us": Runner(content, "builtin").microseconds(),
    }


def golden(models, stream, count=8):
    """Answers to `count` windows spread over the recording, from both sets of kernels."""
    picked = np.linspace(0, len(stream.rows) - 1, count).round().astype(int)
    files = {}
    for path, raw in models.values():
        runner = Runner(path.read_bytes())
        files[path.name] = {"sha256": sha256(path)}
        for kernels in RESOLVERS:
            chosen = raw[kernels][picked]
            files[path.name][kernels] = {
                **({"raw": chosen.tolist()} if runner.is_int8 else {}),
                "probabilities": runner.dequantise(chosen).astype(float).tolist(),
            }
    return {
        "first_rows": [stream.rows[i] for i in picked],
        "true_labels": [int(stream.truth[i]) for i in picked],
        "models": files,
    }

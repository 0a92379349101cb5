"""What the exported models answer on the recording, exactly as the daemon would ask them."""

import gzip
import hashlib
import statistics
import time

import numpy as np
import tensorflow as tf

from dataset import WINDOW, read_csv, window_starts

SMOOTH = 3
RESOLVERS = {
    "xnnpack": tf.lite.experimental.OpResolverType.BUILTIN,
    "builtin": tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Runner:
    """A model on one thread, with XNNPACK or with the runtime's own kernels."""

    def __init__(self, content, kernels="xnnpack", batch=1, shape=(WINDOW, 1, 6)):
        self.interpreter = tf.lite.Interpreter(
            model_content=content, num_threads=1, experimental_op_resolver_type=RESOLVERS[kernels]
        )
        self.input = self.interpreter.get_input_details()[0]
        self.output = self.interpreter.get_output_details()[0]
        self.shape = [batch, *shape]
        self.interpreter.resize_tensor_input(self.input["index"], self.shape)
        self.interpreter.allocate_tensors()
        self.is_int8 = self.input["dtype"] == np.int8

    def quantise(self, x):
        if not self.is_int8:
            return x
        scale, zero = self.input["quantization"]
        return np.clip(np.round(x / np.float32(scale) + np.float32(zero)), -128, 127).astype(np.int8)

    def raw(self, x):
        """Output tensor for a batch of standardised windows."""
        self.interpreter.set_tensor(self.input["index"], self.quantise(x).reshape(self.shape))
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output["index"])

    def each(self, windows):
        """Outputs of standardised windows, one invocation each."""
        return np.concatenate([self.raw(w[None]) for w in windows])

    def dequantise(self, raw):
        if not self.is_int8:
            return raw
        scale, zero = self.output["quantization"]
        return (raw.astype(np.float32) - np.float32(zero)) * np.float32(scale)

    def microseconds(self, rounds=3000):
        """Median time of one invocation."""
        for _ in range(200):
            self.interpreter.invoke()
        times = []
        for _ in range(rounds):
            start = time.perf_counter_ns()
            self.interpreter.invoke()
            times.append(time.perf_counter_ns() - start)
        return round(statistics.median(times) / 1000, 1)

    def operators(self):
        """Operator names in order, without the delegate that stands for some of them."""
        return [op["op_name"] for op in self.interpreter._get_ops_details() if op["op_name"] != "DELEGATE"]

    def left_to_builtin(self):
        """Operators that XNNPACK did not take from this chain of operators."""
        details = self.interpreter._get_ops_details()
        operators = [op for op in details if op["op_name"] != "DELEGATE"]
        delegates = [op for op in details if op["op_name"] == "DELEGATE"]
        if len(delegates) != 1:
            raise ValueError(f"XNNPACK took {len(delegates)} pieces of the graph, not one")
        taken = delegates[0]
        first = next(i for i, op in enumerate(operators) if set(op["inputs"]) & set(taken["inputs"]))
        last = next(i for i, op in enumerate(operators) if set(op["outputs"]) & set(taken["outputs"]))
        return [op["op_name"] for op in operators[:first] + operators[last + 1 :]]


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


def weight_tensors(content):
    """Kernels of the exported model, by operator and its place in the graph."""
    interpreter = Runner(content, "builtin").interpreter
    found = {}
    for op in interpreter._get_ops_details():
        if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            found[f"{op['op_name']}#{op['index']}"] = interpreter.get_tensor(op["inputs"][1])
    return found


def sparsity(content):
    kernels = weight_tensors(content)
    zeros = {name: int((k == 0).sum()) for name, k in kernels.items()}
    return {
        "zero_weights": sum(zeros.values()),
        "weights": sum(k.size for k in kernels.values()),
        "zero_share": sum(zeros.values()) / sum(k.size for k in kernels.values()),
        "per_layer": {n: {"shape": list(k.shape), "zero_share": zeros[n] / k.size} for n, k in kernels.items()},
    }


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
        "gzip_bytes": len(gzip.compress(content, mtime=0)),
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


def tensor_facts(details):
    facts = {"shape": details["shape_signature"].tolist(), "type": np.dtype(details["dtype"]).name}
    scale, zero = details["quantization"]
    if scale:
        facts |= {"scale": float(np.float32(scale)), "zero_point": int(zero)}
    return facts


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

"""One exported model, run as the daemon runs it, and what can be said of its file."""

import gzip
import hashlib
import statistics
import time

import numpy as np
import tensorflow as tf

RESOLVERS = {
    "xnnpack": tf.lite.experimental.OpResolverType.BUILTIN,
    "builtin": tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


class Runner:
    """A model on one thread, with XNNPACK or with the runtime's own kernels."""

    def __init__(self, content, kernels="xnnpack", batch=1):
        self.interpreter = tf.lite.Interpreter(
            model_content=content, num_threads=1, experimental_op_resolver_type=RESOLVERS[kernels]
        )
        self.input = self.interpreter.get_input_details()[0]
        self.output = self.interpreter.get_output_details()[0]
        self.shape = [batch, *self.input["shape_signature"][1:].tolist()]
        self.interpreter.resize_tensor_input(self.input["index"], self.shape)
        self.interpreter.allocate_tensors()
        self.is_int8 = self.input["dtype"] == np.int8

    def quantise(self, x):
        scale, zero = self.input["quantization"]
        if not scale:
            return x
        limits = np.iinfo(self.input["dtype"])
        steps = np.round(x / np.float32(scale) + np.float32(zero))
        return np.clip(steps, limits.min, limits.max).astype(self.input["dtype"])

    def raw(self, x):
        """Output tensor for a batch of windows, as the model's features are."""
        self.interpreter.set_tensor(self.input["index"], self.quantise(x).reshape(self.shape))
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output["index"])

    def each(self, windows):
        """Outputs of windows, one invocation each."""
        return np.concatenate([self.raw(w[None]) for w in windows])

    def dequantise(self, raw):
        scale, zero = self.output["quantization"]
        if not scale:
            return raw
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


def tensor_facts(details):
    facts = {"shape": details["shape_signature"].tolist(), "type": np.dtype(details["dtype"]).name}
    scale, zero = details["quantization"]
    if scale:
        facts |= {"scale": float(np.float32(scale)), "zero_point": int(zero)}
    return facts


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def gzip_bytes(content):
    return len(gzip.compress(content, mtime=0))

"""What `variants.json` says of each file. docs/optimise.md describes it."""

from dataclasses import dataclass

import numpy as np

from common import versions, write_json
from runner import Runner, gzip_bytes, sha256, tensor_facts
from tflite import distinct_weights, sparsity

# To be raised if a key changes its meaning or goes.
VERSION = 1


@dataclass(frozen=True)
class Tested:
    """The windows on which variants are tried, and what the float32 model answers to them."""

    windows: object
    name: str
    original: np.ndarray

    def facts(self, content):
        runner = Runner(content)
        outputs = runner.dequantise(runner.each(self.windows.values))
        weights = sparsity(content)
        return {
            "bytes": len(content),
            "gzip_bytes": gzip_bytes(content),
            "input": tensor_facts(runner.input),
            "output": tensor_facts(runner.output),
            "weights": weights["weights"],
            "zero_share": round(weights["zero_share"], 4),
            "distinct_weights": distinct_weights(content),
            "largest_difference": float(np.abs(outputs - self.original).max()),
            **self.quality(outputs),
        }

    def quality(self, outputs):
        if self.windows.labels is not None:
            flat = outputs.reshape(len(outputs), -1)
            # One output is a probability or a logit of the second class; both sides are told apart by the original.
            guess = flat.argmax(1) if flat.shape[1] > 1 else (flat[:, 0] > self.threshold).astype(int)
            correct = int((guess == self.windows.labels).sum())
            return {"correct": correct, "accuracy": round(correct / len(outputs), 4)}
        if self.windows.targets is not None:
            return {"mean_squared_error": float(np.square(outputs - self.windows.targets).mean())}
        return {}

    @property
    def threshold(self):
        """Half way: 0.5 for probabilities, 0 for logits."""
        return 0.5 if self.original.min() >= 0 and self.original.max() <= 1 else 0.0


def write(folder, source, given, tested, options, made, left_out):
    variants = [
        {"variant": name, "file": path.name, "sha256": sha256(path), "how": how, **tested.facts(path.read_bytes())}
        for name, path, how in made
    ]
    manifest = {
        "version": VERSION,
        "model": {"file": source.path.name, "kind": source.kind},
        "data": {**given, "tested_on": tested.name, "tested_windows": len(tested.windows)},
        "options": options,
        "versions": versions(),
        "variants": variants,
        "left_out": [{"variant": name, "why": why} for name, why in left_out],
    }
    write_json(folder / "variants.json", manifest)
    return manifest


def table(manifest):
    """The manifest's main figures as lines of text."""
    head = ["variant", "bytes", "gzipped", "zeros", "distinct", "differs by"]
    quality = next((key for key in ("accuracy", "mean_squared_error") if key in manifest["variants"][0]), None)
    rows = [[*head, quality.replace("_", " ")] if quality else head]
    for v in manifest["variants"]:
        row = [v["variant"], f"{v['bytes']:,}", f"{v['gzip_bytes']:,}", f"{100 * v['zero_share']:.1f} %",
               str(v["distinct_weights"]), f"{v['largest_difference']:.3g}"]
        rows.append([*row, f"{v[quality]:.4g}"] if quality else row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)

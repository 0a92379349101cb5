"""Converts a PyTorch module to a float32 `.tflite`, from which optimise.py makes variants.

    pip install --require-hashes -r models/optimise/requirements-torch.txt
    python models/optimise/from_torch.py model.pt2 --shape 1,6,200 --out model.tflite
    python models/optimise/from_torch.py network.py:build --shape 1,6,200 --out model.tflite

`model.pt2` is what torch.export.save() writes; `network.py:build` is a function without arguments that gives the module with
its weights. Both are run: convert only what you trust. PyTorch and TensorFlow want other versions of the same packages, so
this needs a venv of its own.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import litert_torch
import numpy as np
import torch

# Of the largest output.
TOLERANCE = 1e-4


def module_of(text):
    """The module that the argument names."""
    path, _, function = text.partition(":")
    path = Path(path)
    if not path.is_file():
        raise SystemExit(f"from_torch: {path}: there is no such file")
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    if path.suffix != ".py" or not function:
        raise SystemExit(f"from_torch: {text}: give a file of torch.export.save() (.pt2), or FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    if not hasattr(code, function):
        raise SystemExit(f"from_torch: {path}: has no function {function}")
    return getattr(code, function)().eval()


def shape_of(text):
    try:
        return tuple(int(n) for n in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; give numbers such as 1,6,200") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", help="FILE.pt2 or FILE.py:FUNCTION")
    parser.add_argument("--shape", type=shape_of, required=True, help="of the input, the batch of 1 first: 1,6,200")
    parser.add_argument("--out", type=Path, required=True, help="the .tflite to write")
    args = parser.parse_args()
    module, example = module_of(args.module), torch.randn(args.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = module(example).numpy()
    converted = litert_torch.convert(module, (example,))
    difference = float(np.abs(converted(example) - wanted).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise SystemExit(f"from_torch: the converted model gives other outputs, by up to {difference:.3g}")
    converted.export(str(args.out))
    print(f"{args.out}: {args.out.stat().st_size:,} bytes; differs from PyTorch by up to {difference:.2g}")


if __name__ == "__main__":
    sys.exit(main())

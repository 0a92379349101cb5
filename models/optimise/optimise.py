"""Makes smaller and faster variants of a model, and says what each keeps of its accuracy.

    pip install --require-hashes -r models/requirements.txt
    python models/optimise/optimise.py model.keras --data windows.npz --out variants

docs/optimise.md says which variant is for what.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The folder of this script comes first, then that of the demo's model.
sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np

import convert
import inputs
import manifest
import shrink
from common import repeatable
from inputs import BadInput
from rebuild import CannotRebuild
from source import Source, first_line

CALIBRATION_WINDOWS = 500


class Job:
    """One model with its data; each method that `VARIANTS` names makes one variant, as bytes."""

    def __init__(self, source, learning, options, clip):
        self.source, self.learning, self.options = source, learning, options
        few = min(CALIBRATION_WINDOWS, len(learning))
        picked = np.random.default_rng(options.seed).choice(len(learning), few, replace=False)
        self.calibration = learning.values[np.sort(picked)]
        if clip is not None:
            self.calibration = np.clip(self.calibration, -clip, clip)

    def network(self):
        return self.source.network(self.learning.values)

    @cached_property
    def original(self):
        return self.network()

    @cached_property
    def pruned_network(self):
        return shrink.prune(self.network(), self.original, self.learning, self.options)

    def fp32(self):
        return self.source.fp32

    def fp16(self):
        return convert.fp16(self.source.converter())

    def dynamic(self):
        return convert.dynamic(self.source.converter())

    def int8(self):
        return convert.int8(self.source.converter(), self.calibration)

    def int16x8(self):
        return convert.int16x8(self.source.converter(), self.calibration)

    def pruned(self):
        return convert.fp32(self.pruned_network.converter())

    def pruned_int8(self):
        return convert.int8(self.pruned_network.converter(), self.calibration)

    def sparse(self):
        block = shrink.DENSE_BLOCK
        network = shrink.prune(self.network(), self.original, self.learning, self.options, block)
        return convert.sparse(network.converter())

    def clustered(self):
        return convert.fp32(shrink.cluster(self.network(), self.original, self.learning, self.options).converter())

    def qat_int8(self):
        network = shrink.train_for_int8(self.network(), self.original, self.learning, self.options, self.calibration)
        return convert.int8(network.converter(), self.calibration)


VARIANTS = {
    "fp32": "as it is, float32",
    "fp16": "weights in float16, calculated in float32",
    "dynamic": "weights in int8, the rest in float32",
    "int8": "int8 throughout, ranges from the windows",
    "int16x8": "weights in int8, the rest in int16, ranges from the windows",
    "pruned": "smallest weights set to zero while it trained on, float32",
    "pruned_int8": "the same as pruned, then int8 throughout",
    "sparse": "pruned, dense layers in blocks of 4 weights, zeros not stored, float32",
    "clustered": "few distinct weights in each kernel, trained on, float32",
    "qat_int8": "trained on with the rounding of int8, then int8 throughout",
}


def arguments(argv):
    defaults = shrink.Options()
    parser = argparse.ArgumentParser(prog="optimise.py", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a Keras model (.keras, .h5), a SavedModel (a folder) or a float32 .tflite")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE",
                        help="windows as the model gets them, .npz or .csv, with labels or targets if there are any")
    parser.add_argument("--test", type=Path, metavar="FILE",
                        help="windows to test on, of the same form; without it, the last fifth of the data is held out")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the variants go")
    parser.add_argument("--name", help="how the files' names begin; by default as the model's name")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, metavar="VARIANT",
                        help=f"which to make, of {', '.join(VARIANTS)}; by default all that can be made")
    parser.add_argument("--clip", type=float, metavar="VALUE",
                        help="inputs beyond this size saturate in int8 and int16, so that rare ones do not set the range")
    parser.add_argument("--sparsity", type=float, default=defaults.sparsity, metavar="SHARE",
                        help="share of zeros in pruned kernels (%(default)s); a small first or last one has half at most")
    parser.add_argument("--clusters", type=int, default=defaults.clusters, metavar="COUNT",
                        help="distinct weights in a clustered kernel (%(default)s)")
    parser.add_argument("--steps", type=int, default=defaults.steps, metavar="COUNT",
                        help=f"how many batches of {defaults.batch} windows training on takes (%(default)s)")
    parser.add_argument("--bench", metavar="EDGEWATT", help="afterwards measure the variants with this edgewatt")
    args = parser.parse_args(argv)
    if not 0 < args.sparsity < 1:
        parser.error(f"--sparsity {args.sparsity}: a share lies between 0 and 1, such as 0.75")
    if args.clusters < 2:
        parser.error(f"--clusters {args.clusters}: give 2 or more")
    if args.steps < 1:
        parser.error(f"--steps {args.steps}: give 1 or more")
    if args.clip is not None and args.clip <= 0:
        parser.error(f"--clip {args.clip}: give a size above 0")
    return args


def windows(args, source):
    """The windows to learn from, those to test on, and a name for the latter."""
    data = inputs.read(args.data, source.input_shape, source.output_shape)
    if args.test is None:
        return *data.split(), f"{args.data.name}, its last fifth, which was not used otherwise"
    return data, inputs.read(args.test, source.input_shape, source.output_shape), args.test.name


def make(job, args, name):
    """The files that were made, and what could not be, each with the reason."""
    made, left_out = [], []
    for variant in args.variants or VARIANTS:
        print(f"  {variant}", flush=True)
        try:
            content = getattr(job, variant)()
        except CannotRebuild as error:
            left_out.append((variant, f"the model {error}"))
        except Exception as error:  # The converter and Keras raise whatever goes wrong inside them.
            left_out.append((variant, f"making it fails: {first_line(error)}"))
        else:
            path = args.out / f"{name}_{variant}.tflite"
            path.write_bytes(content)
            made.append((variant, path, VARIANTS[variant]))
    return made, left_out


def bench(program, folder, files):
    """Measures the variants with edgewatt. The only place that knows how it is called."""
    command = [program, "bench", *map(str, files), "--windows", str(folder / "windows.csv")]
    print(" ".join(command), flush=True)
    if subprocess.run(command).returncode != 0:
        raise BadInput(f"{program}: `edgewatt bench` failed")


def run(args):
    options = shrink.Options(sparsity=args.sparsity, clusters=args.clusters, steps=args.steps)
    repeatable(options.seed)
    source = Source(args.model)
    learning, testing, tested_on = windows(args, source)
    args.out.mkdir(parents=True, exist_ok=True)
    made, left_out = make(Job(source, learning, options, args.clip), args, args.name or args.model.stem)
    answers = source.runner.each(testing.values)
    given = {"file": args.data.name, "windows": len(learning), "clip": args.clip}
    report = manifest.write(args.out, source, given, manifest.Tested(testing, tested_on, answers), asdict(options), made,
                            left_out)
    inputs.write_csv(args.out / "windows.csv", testing)
    print(manifest.table(report) if made else "no variant was made")
    for variant, why in left_out:
        print(f"{variant}: left out; {why}", file=sys.stderr)
    if args.bench:
        bench(args.bench, args.out, [path for _, path, _ in made])
    # By default what can be made is made; what was asked for by name must be.
    return 1 if not made or (args.variants and left_out) else 0


def main(argv=None):
    args = arguments(argv)
    try:
        return run(args)
    except BadInput as error:
        print(f"optimise: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

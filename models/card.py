"""The model card: words here, numbers from metrics.json. Run alone, it writes the card anew."""

import json
from pathlib import Path

NAMES = {
    "PEN": "pendulum",
    "ABD": "abduction",
    "FEL": "forward elevation",
    "IR": "internal rotation",
    "ER": "external rotation",
    "TRAP": "trapezius extension",
    "ROW": "upright row",
}

TITLES = {"fp32": "fp32", "int8": "int8", "pruned_int8": "pruned int8"}


def percent(share, digits=1):
    return f"{100 * share:.{digits}f} %"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def join(numbers):
    return ", ".join(str(n) for n in numbers)


def folds(cv):
    rows = [
        [i, join(f["subjects"]), f["windows"], *(percent(f[name]["accuracy"]) for name in TITLES)]
        for i, f in enumerate(cv["folds"], 1)
    ]
    return table(["fold", "tested on subjects", "windows", *TITLES.values()], rows)


def spread(cv, name):
    return f"{percent(cv[name]['mean'])} ± {100 * cv[name]['std']:.1f}"


def confusion(matrix, labels):
    rows = [[f"**{label}**", *counts] for label, counts in zip(labels, matrix)]
    return table(["true \\ answer", *labels], rows)


def acceleration(rec):
    """What XNNPACK takes of each model."""
    left = {title: rec[name]["operators_left_by_xnnpack"] for name, title in TITLES.items()}
    words = [f"{title}, {'all but ' + join(ops) if ops else 'the whole graph'}" for title, ops in left.items()]
    return f"XNNPACK takes: {'; '.join(words)}."


def mixed_up(matrix, labels, count=2):
    """The pairs of labels most often taken for each other, with their share of all errors."""
    size = range(len(labels))
    errors = sum(matrix[i][j] for i in size for j in size if i != j)
    pairs = sorted(((matrix[i][j] + matrix[j][i], i, j) for i in size for j in size if i < j), reverse=True)
    return " and ".join(f"{labels[i]} with {labels[j]} ({percent(n / errors, 0)})" for n, i, j in pairs[:count])


def exports(m):
    rows = []
    for name, title in TITLES.items():
        r, t = m["recording"][name], m["timing"][name]
        rows.append(
            [
                f"`{r['file']}` ({title})",
                f"{r['bytes']:,}",
                f"{r['gzip_bytes']:,}",
                percent(r["sparsity"]["zero_share"]),
                f"{percent(r['accuracy'], 2)} ({r['correct']})",
                f"{percent(r['smooth3']['accuracy'], 2)} ({r['smooth3']['correct']})",
                t["xnnpack_us"],
                t["builtin_us"],
            ]
        )
    head = ["file", "bytes", "gzipped", "zero weights", "accuracy", "mean of 3", "µs, XNNPACK", "µs, built-in"]
    return table(head, rows)


def kernels(m):
    rows = []
    for name, title in TITLES.items():
        r, b = m["recording"][name], m["recording"][name]["builtin_kernels"]
        step = "" if name == "fp32" else " steps"
        rows.append(
            [
                title,
                f"{r['correct']}",
                f"{b['correct']}",
                b["windows_with_another_argmax"],
                f"{b['largest_output_difference']:.2g}{step}",
                f"{r['batch8_largest_output_difference']:.2g}{step}",
            ]
        )
    head = [
        "model",
        "correct, XNNPACK",
        "correct, built-in",
        "other answer",
        "largest difference",
        "one by one against batches of 8",
    ]
    return table(head, rows)


def layers(m):
    per_layer = m["recording"]["pruned_int8"]["sparsity"]["per_layer"]
    rows = [(name, " x ".join(map(str, v["shape"])), percent(v["zero_share"])) for name, v in per_layer.items()]
    return table(["operator", "kernel", "zeros"], rows)


def behind(results, measure):
    """How far the small models are from fp32, in points."""
    full = results["fp32"][measure]
    points = {name: 100 * (results[name][measure] - full) for name in ("int8", "pruned_int8")}
    return f"int8 {points['int8']:+.1f} and pruned int8 {points['pruned_int8']:+.1f} points"


def render(m, labels):
    cv, rec = m["cross_validation"], m["recording"]
    worst, best = min(cv["fp32"]["subjects"].values()), max(cv["fp32"]["subjects"].values())
    return f"""# Shoulder-exercise model

The demo's model. It watches a smartwatch's accelerometer and gyroscope and says, every
second, which of seven shoulder exercises the last four seconds were. `train.py` wrote
this page; every number on it comes from `metrics.json`, except those marked as quoted.

| label | exercise |
| --- | --- |
{chr(10).join(f"| {label} | {NAMES[label]} |" for label in labels)}

## Files

| file | what it is |
| --- | --- |
| `shoulder_fp32.tflite` | the model in float32 |
| `shoulder_int8.tflite` | the same, int8 throughout |
| `shoulder_pruned_int8.tflite` | the same, pruned, int8 throughout |
| `shoulder.json`, `labels.txt` | window, channels, mean and standard deviation; labels in the order of the outputs |
| `shoulder_recording.csv`, `shoulder_recording.LICENSE` | the demo's recording and its licence |
| `metrics.json` | the results in full |
| `golden.json` | reference answers of the three models to {len(rec["golden_rows"])} windows |
| `train.py` and the modules beside it, `requirements.txt` | how all of this is made |
| `optimise/` | makes smaller and faster variants of this model or of yours: [optimise.md](../docs/optimise.md) |

Neither the demo nor the tests train anything. [machine/](machine/README.md) has the model of another example.

## Data

The recordings come with the Python package seglearn 1.2.5 (`watch_dataset.npy`), by
David M. Burns, under the 3-clause BSD licence: ten healthy subjects, each doing one set of
each exercise with each arm, 140 recordings at 50 Hz. The study behind them is Burns et al.,
"Shoulder Physiotherapy Exercise Recognition: Machine Learning the Inertial Signals from a
Smartwatch" (arXiv 1802.01489).

The channels are `ax ay az` and `wx wy wz`. The package does not state units, so these were
inferred: the accelerometer reads about 1 at rest, which is g, and of the usual units for the
gyroscope only rad/s has the right size for how fast gravity turns in the accelerometer's axes.

Subject {rec["subject"]}, the one with the highest number, was set aside for the demo before anything
was trained. `shoulder_recording.csv` holds that subject's {rec["stretches"]} recordings, first the right
arm and then the left, in the order of the labels, rounded to four decimals. Samples are 0.02 s
apart; between two recordings the time jumps by {rec["gap_s"]:g} s.

## Model

Five convolutions along time (the last two with a shortcut), an average over time, a dense
layer and a softmax: {m["parameters"]:,} parameters. Input: `[batch, 200, 1, 6]`, standardised
per channel as `(x - mean) / std`; the int8 models saturate at 6 standard deviations.
Output: `[batch, 7]` probabilities. The batch dimension is free. Operators:
{join(dict.fromkeys(f"`{op}`" for op in rec["fp32"]["operators"]))}.
{acceleration(rec)}

Training draws windows at random places and changes each one: mirrored to the other arm,
rotated a little as if the watch sat differently, played faster or slower, scaled, mixed with
another window, with noise added. The pruned model starts from the trained one, loses its
smallest weights bit by bit while training goes on, and learns from the full model's answers.

## Results on unseen subjects

Five-fold cross-validation; no subject is in both parts of a fold. Accuracy is the share of
windows (200 samples, one every 50) whose most probable label is right.

| | subjects | accuracy |
| --- | --- | --- |
| this model, fp32 | 10 | **{spread(cv, "fp32")}** |
| this model, int8 | 10 | {spread(cv, "int8")} |
| this model, pruned int8 | 10 | {spread(cv, "pruned_int8")} |
| CRNN of the paper (quoted, second version) | 20 | 88.9 % ± 1.6 |
| best of the paper's first version, a random forest (quoted) | 10 | 87.3 % |

± is the standard deviation over folds. The rows are close but not equal tests: the package
has half of the subjects of the paper's second version, and so each fold trains on eight people
instead of sixteen and tests on two instead of four, which also widens the spread; the paper cut its
own windows.

{folds(cv)}

By subject the accuracy of fp32 runs from {percent(worst)} to {percent(best)}. Its answers, all folds together:

{confusion(cv["fp32"]["confusion"], labels)}

Most of the errors mix up {mixed_up(cv["fp32"]["confusion"], labels)}.

Network, augmentation and training length were chosen by the same kind of cross-validation
over subjects other than {rec["subject"]}, so the figures above are a little optimistic for those.

## Results on the recording

Subject {rec["subject"]}, unseen in training: {rec["windows"]} windows, starting afresh after each gap. "Mean of 3"
takes the mean of the probabilities of the last three windows since the gap.

{exports(m)}

Against fp32: {behind(rec, "accuracy")} here; over the folds of the
cross-validation, {behind(cv, "mean")}. Times are for one window on one thread
({m["timing"]["processor"]}), TensorFlow Lite {m["versions"]["tensorflow"]}.

One subject is a small sample; the cross-validation is the better guide to what a new
person will see.

{kernels(m)}

The runtime's own kernels and XNNPACK do not round int8 sums alike; a step is 1/256 of
probability. `golden.json` has the answers of both. The accuracies above are XNNPACK's.

Zeros in the pruned model, counted in the file:

{layers(m)}

Pruned weights are stored like any others and XNNPACK multiplies by them all the same: the
pruned file gains in compressed size, not in speed or memory ([where pruning saves
time](../docs/optimise.md#where-pruning-saves-time)). The pruning recipe is the one
thing changed after a look at the recording: its first form, without the full model's answers
to learn from, lost more than a point there. The present one was tried on other subjects first.

## What it is not good for

- There is no "none of these": rest, walking or an eighth exercise gets one of the seven labels,
  often with high probability. Probabilities are not calibrated.
- It was tested inside sets of one exercise, not on the passage from one to another.
- Healthy adults, one kind of watch, one way of wearing it. People with shoulder trouble move
  differently, and nothing here says how well it does on them.
- It does not judge how well an exercise is done, and it is not a medical device.
- A person whose movements are far from those of the other subjects is served much worse than
  the mean says: see the spread between subjects and folds.

## Training again

```
python3.11 -m venv venv
venv/bin/pip install --require-hashes -r models/requirements.txt
venv/bin/python models/train.py
```

This rewrites every file here that is not code. Seeds, threads and kernels are fixed
(seed {m["seed"]}), so that a second run on the same machine gives the same bytes; only the times in
`metrics.json` and in this page differ. On another processor the kernels sum in another
order, and the trained weights, and with them the figures, come out slightly different.

## Licence

The models and the code are under the project's licence. The recording is the work of David M.
Burns and stays under the 3-clause BSD licence in `shoulder_recording.LICENSE`.
"""


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    metrics = json.loads((here / "metrics.json").read_text())
    labels = (here / "labels.txt").read_text().split()
    (here / "README.md").write_text(render(metrics, labels))

"""Trains the demo's models and writes every file of this folder that is not code.

    pip install --require-hashes -r models/requirements.txt
    python models/train.py

Takes a few minutes on two processor cores. The files of the demo come first, the
cross-validation next, and the model card last.
"""

import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

import card
import evaluate
import export
from common import processor, repeatable, shortest, versions, write_json
from dataset import CHANNELS, GAP_S, HOP, RATE_HZ, UNITS, WINDOW, load, package_folder, statistics, windows, write_csv
from network import OPTIONS, parameters, prune, train
from runner import Runner, sha256

HERE = Path(__file__).resolve().parent
SEED = 20180201
FOLDS = 5
CALIBRATION_WINDOWS = 500
RECORDING = "shoulder_recording.csv"
MODELS = {
    "fp32": "shoulder_fp32.tflite",
    "int8": "shoulder_int8.tflite",
    "pruned_int8": "shoulder_pruned_int8.tflite",
}


def make_models(learning, mean, std, classes, seed):
    """The three exports as bytes, and the number of parameters of the full ones."""
    samples, _, _ = windows(learning)
    picked = np.random.default_rng(seed).choice(len(samples), CALIBRATION_WINDOWS, replace=False)
    calibration = (samples[np.sort(picked)] - mean) / std
    print("  training", flush=True)
    model = train(learning, mean, std, classes, OPTIONS, seed)
    print("  pruning", flush=True)
    sparse = prune(model, learning, mean, std, OPTIONS, seed)
    models = {
        "fp32": export.to_float(model),
        "int8": export.to_int8(model, calibration),
        "pruned_int8": export.to_int8(sparse, calibration),
    }
    return models, parameters(model)


def cross_validate(recordings, classes):
    """Each fold tests on subjects that took no part in its training or standardisation."""
    subjects = sorted({r.subject for r in recordings})
    folds, answers = [], []
    for number, tested in enumerate(np.array_split(subjects, FOLDS), 1):
        print(f"fold {number}/{FOLDS}: testing on subjects {tested.tolist()}", flush=True)
        learning = [r for r in recordings if r.subject not in tested]
        mean, std = statistics(learning)
        models, _ = make_models(learning, mean, std, classes, SEED + number)
        samples, truth, who = windows([r for r in recordings if r.subject in tested])
        standard = (samples - mean) / std
        guesses = {name: Runner(m).each(standard).argmax(1) for name, m in models.items()}
        scores = {name: evaluate.score(guess, truth) for name, guess in guesses.items()}
        folds.append({"subjects": tested.tolist(), "windows": len(truth), **scores})
        answers += zip(who.tolist(), truth.tolist(), guesses["fp32"].tolist())
        print("  ", {name: round(s["accuracy"], 4) for name, s in scores.items()}, flush=True)
    return summary(folds, np.array(answers), classes)


def summary(folds, answers, classes):
    who, truth, guess = answers.T
    result = {"folds": folds}
    for name in MODELS:
        accuracies = [f[name]["accuracy"] for f in folds]
        result[name] = {"mean": float(np.mean(accuracies)), "std": float(np.std(accuracies))}
    result["fp32"] |= {
        "subjects": {int(s): float((guess == truth)[who == s].mean()) for s in np.unique(who)},
        "confusion": evaluate.confusion(guess, truth, classes),
    }
    return result


def write_settings(mean, std, labels):
    (HERE / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    settings = {
        "window": {"samples": WINDOW, "hop": HOP, "rate_hz": RATE_HZ},
        "channels": [{"name": n, "unit": u} for n, u in zip(CHANNELS, UNITS)],
        "mean": shortest(mean),
        "std": shortest(std),
        "labels": labels,
        "input": {"shape": [-1, WINDOW, 1, len(CHANNELS)], "layout": "sample-major: one row of channels per sample"},
        "standardise": "(x - mean) / std in float32",
        "models": MODELS,
    }
    write_json(HERE / "shoulder.json", settings)


def write_recording(recordings, labels):
    write_csv(HERE / RECORDING, recordings, labels)
    notice = next(package_folder().parent.glob("seglearn-*.dist-info/LICENSE"))
    shutil.copyfile(notice, (HERE / RECORDING).with_suffix(".LICENSE"))


def measure(held_out, labels, mean, std):
    """Score the files as written, on the recording as written."""
    stream = evaluate.Stream(HERE / RECORDING, labels, mean, std)
    recording = {
        "file": RECORDING,
        "sha256": sha256(HERE / RECORDING),
        "subject": held_out,
        "samples": stream.samples,
        "stretches": stream.stretches,
        "gap_s": GAP_S,
        "windows": len(stream.rows),
    }
    outputs = {}
    for name, file in MODELS.items():
        recording[name], raw = evaluate.evaluate(HERE / file, stream, len(labels))
        outputs[name] = (HERE / file, raw)
    answers = evaluate.golden(outputs, stream)
    recording["golden_rows"] = answers["first_rows"]
    reference = {
        "made_by": "python models/train.py",
        "versions": versions(),
        "kernels": {
            "builtin": "the runtime's own kernels, no delegate, one thread, batch of one",
            "xnnpack": "XNNPACK delegate, one thread, batch of one",
        },
        "recording": {"file": RECORDING, "sha256": recording["sha256"]},
        "tolerance": {"int8_steps": 1, "float_relative": 1e-5, "float_absolute": 1e-6},
        **answers,
    }
    return recording, reference


def main():
    repeatable(SEED)
    recordings, labels = load()
    # The rule, fixed beforehand: the demo shows the subject with the highest number.
    held_out = max(r.subject for r in recordings)
    learning = [r for r in recordings if r.subject != held_out]
    mean, std = statistics(learning)
    write_settings(mean, std, labels)
    write_recording([r for r in recordings if r.subject == held_out], labels)
    print("the models of the demo", flush=True)
    models, count = make_models(learning, mean, std, len(labels), SEED)
    for name, content in models.items():
        (HERE / MODELS[name]).write_bytes(content)
    recording, reference = measure(held_out, labels, mean, std)
    write_json(HERE / "golden.json", reference)
    metrics = {
        "seed": SEED,
        "versions": versions(),
        "options": OPTIONS,
        "parameters": count,
        "cross_validation": cross_validate(recordings, len(labels)),
        "recording": recording,
        "timing": {
            "processor": processor(),
            **{name: evaluate.timing(HERE / file) for name, file in MODELS.items()},
        },
    }
    write_json(HERE / "metrics.json", metrics)
    (HERE / "README.md").write_text(card.render(metrics, labels))


if __name__ == "__main__":
    main()

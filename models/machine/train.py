"""Trains the autoencoder of the example "machine anomaly", and writes every file of it that is not code.

    cargo build --release --locked && make runtime
    pip install --require-hashes -r models/requirements.txt
    python models/machine/train.py

or, for a machine of your own, from what `edgewatt record` has written of its normal operation:

    python models/machine/train.py --config device.toml --normal monday.json --output FOLDER

The features are those of the daemon, with the window and the features of a configuration: it plays the recordings through a
model that gives its input back. Needs mosquitto.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
HERE = Path(__file__).resolve().parent
# The folder of this script comes first, then that of the demo's model.
sys.path.append(str(HERE.parent))

import numpy as np
import tensorflow as tf

import convert
import generate
import score
from common import repeatable, shortest, versions, write_json
from daemon import EXAMPLE, PROGRAM, Daemon
from metadata import metadata_of, with_metadata
from runner import RESOLVERS, Runner, sha256

SEED = 6205
MODELS = score.MODELS
# Gives its input with the other sign.
PASSES_ON = HERE.parents[1] / "tests/models/open_input.tflite"
OPTIONS = {"hidden": 32, "code": 8, "batch": 64, "learning_rate": 1e-3, "most_epochs": 400, "patience": 25}
CALIBRATION_WINDOWS = 500
# The int8 model's input goes to so many standard deviations. Normal data stays below 5, but a fault must fit, too.
INPUT_RANGE = 24.0
GOLDEN_WINDOWS = 4
# Of recordings of one's own, this last part of each does not train, but tells when to stop.
VALIDATION_PART = 0.2


def features(daemon, recordings):
    """What the daemon makes of each recording: a list of arrays [windows, features]."""
    played = daemon.play(recordings, PASSES_ON, {"raw": {}})
    return [-np.array([p["outputs"][0] for p in predictions], np.float32) for predictions in played]


def network(features):
    dense, hidden = tf.keras.layers.Dense, OPTIONS["hidden"]
    layers = [dense(hidden, "relu"), dense(OPTIONS["code"]), dense(hidden, "relu"), dense(features)]
    return tf.keras.Sequential([tf.keras.Input([features]), *layers])


def train(training, validation):
    """An autoencoder for standardised features, and how its training went."""
    model = network(training.shape[1])
    model.compile(tf.keras.optimizers.Adam(OPTIONS["learning_rate"]), "mse")
    stop = tf.keras.callbacks.EarlyStopping(patience=OPTIONS["patience"], restore_best_weights=True)
    history = model.fit(
        training, training, OPTIONS["batch"], OPTIONS["most_epochs"], verbose=0,
        validation_data=(validation, validation), callbacks=[stop],
    )
    losses = history.history["val_loss"]
    return model, {
        "epochs": int(np.argmin(losses)) + 1,
        "training_error": float(model.evaluate(training, training, verbose=0)),
        "validation_error": float(min(losses)),
        "parameters": model.count_params(),
    }


def converter(model):
    def reconstruction(features):
        return model(features, training=False)

    return convert.converter_of(convert.frozen(reconstruction, model.input_shape[1:], "features"), model)


def calibration(training):
    """Normal windows, and for each feature one window with the highest and one with the lowest value that must fit."""
    features = training.shape[1]
    picked = np.random.default_rng(SEED).choice(len(training), CALIBRATION_WINDOWS)
    normal = training[np.sort(picked)]
    widest = np.concatenate([normal[:features], normal[-features:]])
    for place, size in enumerate([INPUT_RANGE] * features + [-INPUT_RANGE] * features):
        widest[place, place % features] = size
    return np.concatenate([normal, widest])


def make_models(training, validation):
    """Both models as bytes, the mean and the standard deviation that they ask for, and how the training went."""
    mean, std = training.mean(0), training.std(0)
    if not std.all():
        raise SystemExit(f"feature {int(np.argmin(std))} never changes; record a machine that runs")
    standard = [((values - mean) / std).astype(np.float32) for values in (training, validation)]
    model, about = train(*standard)
    says = metadata_of("machine anomaly", [(mean, std)])
    exported = {
        "fp32": convert.fp32(converter(model)),
        "int8": convert.int8(converter(model), calibration(standard[0])),
    }
    return {name: with_metadata(content, says) for name, content in exported.items()}, mean, std, about


def write_models(folder, models):
    for name, content in models.items():
        (folder / MODELS[name]).write_bytes(content)


def golden(windows, mean, std):
    """What both models answer to windows of the example's recording, with both sets of kernels."""
    picked = np.linspace(0, len(windows) - 1, GOLDEN_WINDOWS).round().astype(int)
    standard = ((windows[picked] - mean) / std).astype(np.float32)
    answers = {}
    for file in MODELS.values():
        content = (HERE / file).read_bytes()
        answers[file] = {"sha256": sha256(HERE / file)}
        for kernels in RESOLVERS:
            runner = Runner(content, kernels)
            raw = runner.each(standard)
            values = {"raw": raw.tolist()} if runner.is_int8 else {"values": [shortest(row) for row in raw]}
            answers[file][kernels] = values
    return {
        "made_by": "python models/machine/train.py",
        "versions": versions(),
        "tolerance": {"int8_steps": 1, "float_relative": 1e-5, "float_absolute": 1e-5},
        "windows": picked.tolist(),
        "inputs": [shortest(row) for row in standard],
        "models": answers,
    }


def settings(pipeline, mean, std, about):
    return {
        "window": {**pipeline["window"], "rate_hz": generate.RATE_HZ},
        "features": pipeline["features"],
        "seed": SEED,
        "versions": versions(),
        "options": OPTIONS,
        **about,
        "mean": shortest(mean),
        "std": shortest(std),
        "models": MODELS,
    }


def the_example(daemon):
    generate.write_example(EXAMPLE)
    with tempfile.TemporaryDirectory() as folder:
        print("generating the training data", flush=True)
        paths = generate.write_sessions(Path(folder), ["training", "validation"])
        uses = [(use, path) for use in paths for path in paths[use]]
        computed = features(daemon, [path for _, path in uses])
    of = lambda wanted: np.concatenate([values for (use, _), values in zip(uses, computed) if use == wanted])
    print("training", flush=True)
    models, mean, std, about = make_models(of("training"), of("validation"))
    write_models(HERE, models)
    write_json(HERE / "machine.json", settings(daemon.pipeline, mean, std, about))
    with tempfile.TemporaryDirectory() as folder:
        counts = generate.recording()
        generate.write_wav(Path(folder) / "recording.wav", counts)
        windows = features(daemon, [Path(folder) / "recording.wav"])[0]
    write_json(HERE / "golden.json", golden(windows, mean, std))
    score.main(daemon)


def own(daemon, recordings, folder):
    computed = features(daemon, recordings)
    ends = [int(len(values) * (1 - VALIDATION_PART)) for values in computed]
    training = np.concatenate([values[:end] for values, end in zip(computed, ends)])
    validation = np.concatenate([values[end:] for values, end in zip(computed, ends)])
    if len(training) < 10 * training.shape[1]:
        raise SystemExit(f"{len(training)} windows to train on are too few; {10 * training.shape[1]} are the least")
    models, _, _, about = make_models(training, validation)
    folder.mkdir(parents=True, exist_ok=True)
    write_models(folder, models)
    errors = about["training_error"], about["validation_error"]
    print(f"{len(training)} windows; mean squared error {errors[0]:.3f}, on later windows {errors[1]:.3f}")
    print("now learn the threshold from another recording: `edgewatt learn`")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edgewatt", default=PROGRAM, help="the program; default: target/release/edgewatt")
    parser.add_argument("--config", type=Path, help="the configuration with the window and the features of that machine")
    parser.add_argument("--normal", nargs="+", type=Path, help="recordings of a machine of your own")
    parser.add_argument("--output", type=Path, help="where the models of that machine are written")
    arguments = parser.parse_args()
    own_keys = [arguments.config, arguments.normal, arguments.output]
    if any(own_keys) and not all(own_keys):
        parser.error("--config, --normal and --output go together")
    repeatable(SEED)
    if arguments.normal:
        own(Daemon(arguments.edgewatt, arguments.config), arguments.normal, arguments.output)
    else:
        the_example(Daemon(arguments.edgewatt))


if __name__ == "__main__":
    main()

"""How well the models tell faults from normal operation, by the daemon's own scores; writes metrics.json and README.md.

    cargo build --release --locked && make runtime
    python models/machine/score.py        # needs numpy and mosquitto

No window that is scored here was used in training.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

import numpy as np

import generate
import report
from daemon import PROGRAM, Daemon

MODELS = {"fp32": "machine_ae_fp32.tflite", "int8": "machine_ae_int8.tflite"}
# A score is published in any case.
NO_ALARM = {"anomaly": {"threshold": 1e9}}
# The threshold is the highest score of so many seconds of normal operation. The first is the example's own recording.
LEARNING_S = {"normal.wav": generate.LEARNING_S, "longer.wav": 300}


def one_cluster():
    """Without the model: the distance from the mean of normal data, in standard deviations."""
    features = len(json.loads((HERE / "machine.json").read_text())["mean"])
    zeros, ones = [0.0] * features, [1.0] * features
    cluster = {"centroid": zeros, "max_error": 0.0}
    return {"anomaly": {"kmeans": {"mean": zeros, "scale": ones, "clusters": [cluster]}}}


def auc(normal, faulty):
    """The probability that a faulty window has a higher score than a normal one; 0.5 is chance."""
    scores = np.concatenate([normal, faulty])
    values, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Equal scores share their ranks.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    above = ranks[len(normal) :].sum() - len(faulty) * (len(faulty) + 1) / 2
    return float(above / (len(normal) * len(faulty)))


class Played:
    """Held-out recordings through one model and decision."""

    def __init__(self, daemon, paths, model, decision):
        recordings = [*paths["normal"], *paths["faults"]]
        played = daemon.play(recordings, HERE / MODELS[model], decision)
        self.normal = played[: len(paths["normal"])]
        self.faults = {path.stem: messages for path, messages in zip(paths["faults"], played[len(paths["normal"]) :])}

    def aucs(self):
        scores = lambda messages: np.array([message["score"] for message in messages])
        normal = np.concatenate([scores(messages) for messages in self.normal])
        return {name: auc(normal, scores(messages)) for name, messages in self.faults.items()}

    def scores(self):
        scores = np.array([message["score"] for messages in self.normal for message in messages])
        parts = {"half": 0.5, "99 %": 0.99, "highest": 1.0}
        return {name: float(np.quantile(scores, part)) for name, part in parts.items()}

    def alarms(self):
        """How many alarms begin in normal operation, and the part of faulty windows that are in an alarm."""
        begun = sum(m.get("changed", False) and m["label"] == "anomaly" for messages in self.normal for m in messages)
        part = lambda messages: sum(m["label"] == "anomaly" for m in messages) / len(messages)
        return {"in_normal": begun, "faults": {name: part(messages) for name, messages in self.faults.items()}}


def learn(daemon, recording, folder):
    """The decision of the example with a threshold from one recording, and what was learnt."""
    file = folder / "threshold.json"
    decision = {"anomaly": {**daemon.pipeline["decision"]["anomaly"], "threshold": {"learnt": str(file)}}}
    daemon.learn(recording, HERE / MODELS["int8"], decision, 1.0)
    learnt = json.loads(file.read_text())
    return decision, {key: learnt[key] for key in ("threshold", "windows")}


def of_recording(daemon, decision, folder):
    """When the alarm of the example's recording begins, and how high the score is before the fault and at most."""
    generate.write_wav(folder / "recording.wav", generate.recording())
    [messages] = daemon.play([folder / "recording.wav"], HERE / MODELS["int8"], decision)
    window = daemon.pipeline["window"]
    ends_s = [(place * window["hop"] + window["samples"]) / generate.RATE_HZ for place in range(len(messages))]
    alarms = [place for place, message in enumerate(messages) if message["label"] == "anomaly"]
    return {
        "windows": len(messages),
        "onset_s": generate.ONSET_S,
        "first_alarm_window": alarms[0],
        "first_alarm_s": ends_s[alarms[0]],
        "alarm_windows": len(alarms),
        "highest_before": max(m["score"] for m, end_s in zip(messages, ends_s) if end_s <= generate.ONSET_S),
        "highest": max(m["score"] for m in messages),
    }


def measure(daemon):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        print("generating the held-out data", flush=True)
        paths = generate.write_sessions(folder, ["normal", "faults"])
        print("scoring", flush=True)
        single = {name: Played(daemon, paths, name, NO_ALARM) for name in MODELS}
        cluster = Played(daemon, paths, "int8", one_cluster())
        learnt = {}
        for name, seconds in LEARNING_S.items():
            generate.write_wav(folder / name, generate.session("learning", seconds))
            decision, found = learn(daemon, folder / name, folder)
            played = Played(daemon, paths, "int8", decision)
            learnt[name] = {"seconds": seconds, **found, **played.alarms()}
            if name == "normal.wav":
                smoothed, example = played, of_recording(daemon, decision, folder)
    int8 = single["int8"]
    return {
        "windows": {"normal": sum(map(len, int8.normal)), "each_fault": len(int8.faults["imbalance_1"])},
        "faults": {name: {"kind": kind, "severity": severity} for name, (kind, severity) in generate.faults().items()},
        "auc": {name: of.aucs() for name, of in {**single, "smoothed": smoothed, "cluster": cluster}.items()},
        "normal_scores": int8.scores(),
        "learnt": learnt,
        "example": example,
    }


def main(daemon):
    metrics = measure(daemon)
    (HERE / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    report.write()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edgewatt", default=PROGRAM, help="the program; default: target/release/edgewatt")
    main(Daemon(parser.parse_args().edgewatt))

"""The model card: words here, numbers from metrics.json and machine.json. Run alone, it writes README.md again.

    python models/machine/report.py             # with --print, prints it instead; needs Python only
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from card import percent, table

KINDS = {
    "outer_race": "outer race of the bearing",
    "imbalance": "imbalance",
    "misalignment": "misalignment",
    "looseness": "looseness",
}
COLUMNS = {"fp32": "fp32", "int8": "int8", "smoothed": "int8, mean of 5", "cluster": "no model"}


def aucs(m):
    rows = []
    for name, fault in m["faults"].items():
        cells = [f"{m['auc'][column][name]:.3f}" for column in COLUMNS]
        rows.append([KINDS[fault["kind"]], f"{fault['severity']:g}", *cells])
    return table(["fault", "adds, m/s2", *COLUMNS.values()], rows)


def alarms(m):
    rows = []
    for name, fault in m["faults"].items():
        parts = [percent(learnt["faults"][name], 0) for learnt in m["learnt"].values()]
        rows.append([KINDS[fault["kind"]], f"{fault['severity']:g}", *parts])
    learnt = m["learnt"].values()
    rows.append(["**false alarms in normal operation**", "", *(f"**{of['in_normal']}**" for of in learnt)])
    head = [f"threshold {of['threshold']:.3f}, from {of['seconds']} s" for of in learnt]
    return table(["fault", "adds, m/s2", *head], rows)


def weak(m):
    """The faults that the scores of single windows do not show well."""
    worst = sorted((auc, name) for name, auc in m["auc"]["int8"].items() if auc < 0.9)
    faults = [(KINDS[m["faults"][name]["kind"]], m["faults"][name]["severity"], auc) for auc, name in worst]
    return ",\n".join(f"{kind} of {severity:g} m/s2 ({auc:.3f})" for kind, severity, auc in faults)


def most_lost(m):
    """How much less AUC the int8 model has than that in float32."""
    return max(m["auc"]["fp32"][name] - auc for name, auc in m["auc"]["int8"].items())


def minutes(windows, hop_s):
    return f"{windows * hop_s / 60:.0f} minutes"


def render(m, s):
    window, rate_hz = s["window"], s["window"]["rate_hz"]
    hop_s = window["hop"] / rate_hz
    [block] = s["features"][0]["edge_impulse"]["blocks"]
    bin_hz = rate_hz / block["spectral_analysis"]["fft_length"]
    # The first feature of each axis.
    rms = s["mean"][:: len(s["mean"]) // 3]
    sizes = {name: (HERE / file).stat().st_size for name, file in s["models"].items()}
    return f"""# Machine anomaly: an autoencoder of vibration

The model of [docs/examples/machine-anomaly.md](../../docs/examples/machine-anomaly.md). It has learnt what the vibration of
one machine in normal operation is like, and nothing else. **The machine is simulated**: the data is generated, so all
figures here say how the method works on that data, and nothing about your machine. `score.py` wrote this page; the numbers
are from `metrics.json` and `machine.json`.

## Files

| file | what it is |
| --- | --- |
| `machine_ae_fp32.tflite` | the model in float32, {sizes["fp32"]:,} bytes |
| `machine_ae_int8.tflite` | the same, int8 throughout, {sizes["int8"]:,} bytes |
| `machine.json` | window, features, mean and standard deviation, how the training went |
| `metrics.json` | the results in full |
| `golden.json` | reference answers of both models to four windows |
| `generate.py` | makes the vibration; its first lines describe the machine and the faults |
| `train.py`, `score.py`, `report.py`, `daemon.py` | train the models, score them, write this page, run edgewatt for that |

Neither the example nor the tests train anything.

## Data

`generate.py` computes the acceleration on a bearing in three axes, as an ADXL345 at {rate_hz} Hz gives it: harmonics of
the rotation (24.6 turns a second), blades, hum, noise, the chip's own noise and its steps of 0.038 m/s2, while load and speed
drift. Each recording is a minute with other random numbers, on the same machine.

- Training: 20 minutes of normal operation; 5 others tell when to stop. No fault was seen in training.
- Held out: {minutes(m["windows"]["normal"], hop_s)} of normal operation ({m["windows"]["normal"]} windows), and a minute of each fault in each
  severity ({m["windows"]["each_fault"]} windows). The severity is what the fault adds: the peak of a stroke of the ball, or the
  amplitude of the largest harmonic. These recordings were drawn when the network and the range of its input were
  already chosen. For comparison: the normal first harmonic has 0.3 m/s2, and all normal vibration
  together {min(rms):.2f} to {max(rms):.2f} m/s2 rms on an axis.

## Model

The features are the spectral analysis of Edge Impulse, version 4, of windows of {window["samples"]} samples
({window["samples"] / rate_hz:g} s, one every {hop_s:g} s): for each axis rms, skewness, kurtosis, skewness and kurtosis of the
spectrum, and the logarithms of {bin_hz:g} Hz wide bins. **The daemon computes them, also for training**: `train.py` plays
the recordings through edgewatt. There is one implementation, and nothing that could disagree.

Dense layers of {s["options"]["hidden"]}, {s["options"]["code"]}, {s["options"]["hidden"]} and {len(s["mean"])} values, {s["parameters"]:,} parameters. Input and output:
`[batch, {len(s["mean"])}]`. The features are standardised, `(x - mean) / std`; both are in the model's metadata, from which edgewatt
takes them. The int8 model takes up to 24 standard deviations: normal data stays below 5, but values of a fault must fit, too.

The score of a window is the mean squared error. It is {s["training_error"]:.2f} in training and {s["validation_error"]:.2f} on other
normal data (epoch {s["epochs"]}). That is high: most of what differs between normal windows is noise, which no model can give back.

## Results

The area under the ROC curve (AUC): the probability that a window with a fault has a higher score than a normal one; 1 is
perfect, 0.5 is chance. The scores are those that `edgewatt run --once` published. "Mean of 5" is the example's `smooth = 5`.
"No model" is the distance from the mean of the training data in standard deviations (`decision.anomaly.kmeans` with one
cluster).

{aucs(m)}

**Where it is poor:** {weak(m)}. These faults change a window by less than normal windows differ from each
other. Compared with no model, the autoencoder is better for the weakest faults of the bearing, of alignment and of looseness, and
about as good for imbalance. int8 costs at most {most_lost(m):.3f}.

With the decision of the example, the threshold is the highest score of a recording of normal data. Percent of the windows
of each fault that are in an alarm:

{alarms(m)}

{m["learnt"]["normal.wav"]["seconds"]} seconds are enough to try the example, and too few for a machine: the highest score of a short recording
is not the highest that normal operation has. Learn from hours, over all loads and speeds.

In the example's recording the fault, a ball stroke of 1 m/s2, begins at {m["example"]["onset_s"]} s. The first window in an alarm ends at
{m["example"]["first_alarm_s"]:g} s. Until the fault the score is {m["example"]["highest_before"]:.2f} at most, then up to {m["example"]["highest"]:.1f}.

## What it is not good for

- Your machine. Train on recordings of it: `train.py --normal`, as the example's page shows.
- It does not say which fault there is.
- Other speeds or loads than those of the training are anomalies, too.
- Its sensor sees up to 400 Hz. Bearings ring at some kHz; the strokes show here because the housing's resonance is at
  310 Hz. Whether yours has one below half the rate of your sensor, a recording tells.
- Real faults grow, mix, and come and go. Here each is constant, and alone.

## Training again

```
make train
```

trains this model after the demo's. Or this alone:

```
cargo build --release --locked && make runtime        # also install mosquitto
python3.11 -m venv venv
venv/bin/pip install --require-hashes -r models/requirements.txt
venv/bin/python models/machine/train.py               # ends with score.py
```

`venv/bin/python models/machine/score.py` makes the figures of this page again with the models as they are; it needs numpy,
not TensorFlow. The seed is {s["seed"]}; a second run on the same machine gives the same bytes (TensorFlow
{s["versions"]["tensorflow"]}, numpy {s["versions"]["numpy"]}). On another processor, sums in another order give slightly different weights and figures.

## Licence

Models, code and data are under the project's licence.
"""


def read(name):
    return json.loads((HERE / name).read_text())


def card():
    return render(read("metrics.json"), read("machine.json"))


def write():
    (HERE / "README.md").write_text(card())


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(card())
    else:
        write()

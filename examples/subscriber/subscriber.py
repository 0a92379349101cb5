#!/usr/bin/env python3
"""Prints each prediction of every edgewatt node on a broker: its label, its score, and the latest energy per inference.

    subscriber.py [HOST [PORT]]

Needs paho-mqtt, 1.x or 2.x (pip install paho-mqtt, or apt-get install python3-paho-mqtt). Fields: docs/mqtt.md.
"""

import json
import sys

from paho.mqtt import subscribe

TOPICS = ["edgewatt/+/p/+/prediction", "edgewatt/+/p/+/metrics"]

# The latest energy of an inference, by node and pipeline.
energies = {}


def energy_text(figures):
    """Returns the first meter's energy per inference as text. If there is no number, returns the reason instead."""
    if not figures:
        return "no energy"
    figure = figures[0]
    if figure["gross_j"] is None:
        return f"no energy: {figure['reason']}"
    return f"{1000 * figure['gross_j']:.3f} mJ ({figure['status']} by {figure['meter']})"


def on_message(_client, _userdata, message):
    _, node, _, pipeline, kind = message.topic.split("/")
    payload = json.loads(message.payload)
    name = f"{node}/{pipeline}"
    if kind == "metrics":
        energies[name] = energy_text(payload["energy"])
        return
    # A label is null when its score is below the threshold. Other decisions than `classify` have none.
    label, score = payload.get("label"), payload.get("score")
    shown = f"{label} {score:.2f}" if label is not None and score is not None else "undecided"
    print(f"{name}: {shown}, {energies.get(name, 'no energy yet')}", flush=True)


def main():
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 1883
    subscribe.callback(on_message, TOPICS, hostname=host, port=port)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass

#!/usr/bin/env python3
"""The pipeline a user would write without edgewatt: CSV -> window -> standardise -> TFLite -> MQTT.

benches/system/compare runs it in turn with edgewatt, with the same model, recording, windows and broker. Needs requirements.txt.
Prints one JSON line: predictions, predictions_per_s, cpu_s (without start and imports), invoke_us_p50.
"""
import argparse
import json
import statistics
import time

import numpy as np
import paho.mqtt.client as mqtt
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--csv", required=True, help="header row, one sample per line; a file or a FIFO")
    p.add_argument("--columns", help="comma-separated column names that are channels; default: all")
    p.add_argument("--window", type=int, required=True, help="samples per window")
    p.add_argument("--hop", type=int, required=True, help="samples between windows")
    p.add_argument("--mean", type=float, nargs="*", default=[0.0])
    p.add_argument("--std", type=float, nargs="*", default=[1.0])
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=1883)
    p.add_argument("--topic", default="peer/prediction")
    p.add_argument("--qos", type=int, default=1)
    p.add_argument("--inflight", type=int, default=64, help="messages handed over and not yet acknowledged")
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()

    f = open(a.csv, encoding="utf-8")
    names = f.readline().strip().split(",")
    cols = [names.index(c) for c in a.columns.split(",")] if a.columns else list(range(len(names)))

    it = Interpreter(a.model, num_threads=a.threads)
    it.allocate_tensors()
    i, o = it.get_input_details()[0], it.get_output_details()[0]
    si, zi = i["quantization"]
    so, zo = o["quantization"]
    mean, std = np.array(a.mean, np.float32), np.array(a.std, np.float32)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.max_inflight_messages_set(a.inflight)
    client.max_queued_messages_set(0)
    client.connect(a.host, a.port)
    client.loop_start()

    n, invokes_s, last = 0, [], None
    wall, cpu = time.perf_counter(), time.process_time()
    ring = []
    for line in f:
        row = line.split(",")
        ring.append([float(row[c]) for c in cols])
        if len(ring) < a.window:
            continue
        x = ((np.asarray(ring, np.float32) - mean) / std).reshape(i["shape"])
        ring = ring[a.hop:]
        if si:
            info = np.iinfo(i["dtype"])
            x = np.clip(np.round(x / si + zi), info.min, info.max).astype(i["dtype"])
        it.set_tensor(i["index"], x)
        t = time.perf_counter()
        it.invoke()
        invokes_s.append(time.perf_counter() - t)
        y = it.get_tensor(o["index"])[0].astype(np.float32)
        if so:
            y = (y - zo) * so
        k = int(y.argmax())
        payload = json.dumps({"seq": n, "ts": time.time(), "class": k, "score": float(y[k])})
        last = client.publish(a.topic, payload, qos=a.qos)
        n += 1
    if last is not None:
        last.wait_for_publish(60)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    client.disconnect()
    client.loop_stop()
    print(json.dumps({"predictions": n, "predictions_per_s": n / wall, "cpu_s": cpu,
                      "invoke_us_p50": statistics.median(invokes_s) * 1e6}))


if __name__ == "__main__":
    main()

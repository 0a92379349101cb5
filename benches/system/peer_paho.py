#!/usr/bin/env python3
"""paho publishing the lines of standard input at QoS 1, as mosquitto_pub -l does; benches/system/throughput runs it."""
import argparse
import sys

import paho.mqtt.client as mqtt


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--topic", required=True)
    p.add_argument("--inflight", type=int, required=True, help="messages handed over and not yet acknowledged")
    a = p.parse_args()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(a.inflight)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", a.port)
    client.loop_start()
    last = None
    for line in sys.stdin.buffer:
        last = client.publish(a.topic, line.rstrip(b"\n"), qos=1)
    if last is not None:
        last.wait_for_publish(120)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()

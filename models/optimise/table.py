"""table.py BENCH.json PAGE: writes the results of `edgewatt bench` of the variants into the table of a page.

The table stands between two comments in the page. Times are those of the fastest delegate of each variant.
"""
import json
import sys
from pathlib import Path

START = "<!-- The table of the demo's variants stands between these two lines. -->"
END = "<!-- The end of the table. -->"
HEAD = ["variant", "file / KiB", "by", "p50 / us", "p99 / us", "windows / s", "in a batch of 8", "processor / us", "memory / MiB",
        "agrees / %", "right / %"]


def number(value):
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def percent(value):
    return "-" if value is None else f"{100 * value:.1f}"


def row(cells):
    """The row of one variant: of its cells, the one with the shortest median for a single window."""
    best = min((cell for cell in cells if cell["batch"] == 1), key=lambda cell: cell["speed"]["p50_ms"]["value"])
    speed, delegate = best["speed"], best["delegate"]["name"]
    batched = [cell for cell in cells if cell["batch"] == 8 and cell["delegate"]["name"] == delegate]
    accuracy = best["accuracy"] and best["accuracy"]["right"]["value"]
    return [
        best["model"]["name"].split("_", 1)[-1],
        number(best["model"]["bytes"] / 1024),
        delegate,
        number(1e3 * speed["p50_ms"]["value"]),
        number(1e3 * speed["p99_ms"]["value"]),
        number(speed["windows_per_s"]["value"]),
        number(batched[0]["speed"]["windows_per_s"]["value"]) if batched else "-",
        number(1e3 * speed["cpu_ms"]["value"]),
        "-" if best["memory_mib"] is None else number(best["memory_mib"]),
        percent(best["agreement"]["top1"]),
        percent(accuracy),
    ]


def table(report):
    variants = {}
    for cell in report["cells"]:
        if cell["speed"]:
            variants.setdefault(cell["model"]["name"], []).append(cell)
    lines = [HEAD, ["---"] * len(HEAD)] + [row(cells) for cells in variants.values()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(bench, page):
    text = page.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    page.write_text(f"{before}{START}\n\n{table(json.loads(bench.read_text()))}\n{END}{after}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

"""Where the time of a Mask R-CNN step goes: the kernels that take most of it."""

import collections
import gzip
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.on_gpu.lines import Lines, arguments
from benchmarks.on_gpu.speed import flags, settings

ROWS = 12


def kernels(trace: Path) -> tuple[collections.Counter, float]:
    """Return microseconds by kernel, and in all, of the device's own timelines.

    Args:
      trace: a perfetto_trace.json.gz that `jax.profiler` wrote.
    """
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    names = {
        event["pid"]: event["args"]["name"]
        for event in events
        if event.get("name") == "process_name"
    }
    devices = {pid for pid, name in names.items() if "/device:" in name}
    if not devices:  # a CPU has one timeline, the host's
        devices = set(names)
    streams = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name" and "Stream" in event["args"]["name"]
    }
    times: collections.Counter = collections.Counter()
    for event in events:
        if event.get("ph") != "X" or event["pid"] not in devices:
            continue
        if streams and (event["pid"], event["tid"]) not in streams:
            continue
        times[event["name"].split("(")[0][:60]] += event.get("dur", 0)
    return times, float(sum(times.values()))


def main() -> None:
    args = arguments(__doc__)
    lines = Lines("profile", args)
    options = settings("retinanet" if args.dry_run else "mask_rcnn", args.dry_run)
    folder = args.out / "profile"
    command = [sys.executable, "-m", "benchmarks.train_step", f"--trace={folder}"]
    kept = [flag for flag in flags(options) if not flag.startswith("--steps")]
    done = subprocess.run(command + kept)
    traces = sorted(folder.rglob("perfetto_trace.json.gz"))
    if done.returncode or not traces:
        lines.add("trace", ok=False, error=f"exit code {done.returncode}")
        lines.finish()
    times, total = kernels(traces[-1])
    lines.add("one step", ms=total / 1e3, kernels=len(times))
    for name, microseconds in times.most_common(ROWS):
        lines.add(name, ms=microseconds / 1e3, share=microseconds / total)
    lines.finish()


if __name__ == "__main__":
    main()

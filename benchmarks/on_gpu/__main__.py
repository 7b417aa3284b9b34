"""Runs the stages of part a or part b and prints their table last."""

import argparse
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from benchmarks.on_gpu.lines import read_lines, table

# Stage -> the most seconds that it may take; their order is that of what is learned.
PART_A = {"ceilings": 40, "ops": 100, "detectors": 150, "speed": 200, "profile": 50}
PART_B = {"training": 510}
PARTS = {"a": PART_A, "b": PART_B}
GRACE = 10  # seconds, for the table


def main() -> int:
    """Run the stages; return 1 if one of them failed or found a wrong result."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.on_gpu", description=__doc__
    )
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument(
        "--minutes", type=float, default=8.8, help="in all; stages are cut to fit"
    )
    parser.add_argument("--only", nargs="*", help="stages by name; default: all")
    parser.add_argument("--wheels", type=Path, help="folder of carried packages")
    parser.add_argument(
        "--earlier", type=Path, help="FOLDER of an earlier part b, to go on from"
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, help="one with torchvision"
    )
    parser.add_argument("--dry-run", action="store_true", help="sizes of a CPU")
    args = parser.parse_args()
    stages = PARTS[args.part]
    unknown = set(args.only or ()) - set(stages)
    if unknown:
        parser.error(
            f"part {args.part} has no stage {sorted(unknown)}: it has {list(stages)}"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    if args.wheels:
        unpacked = unpack(args.wheels, args.out / "packages")
        paths = [str(unpacked), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    end = time.monotonic() + 60 * args.minutes - GRACE
    worst = 0
    for stage, limit in stages.items():
        if args.only and stage not in args.only:
            continue
        seconds = min(limit, end - time.monotonic())
        worst = max(worst, run(stage, args, environment, seconds))
    print(table(read_lines(args.out)), flush=True)
    return worst


def run(stage: str, args, environment: dict[str, str], seconds: float) -> int:
    """Run one stage, of at most `seconds`; return 1 if it failed, else 0."""
    if seconds < 5:
        print(f"== {stage}: no time left", flush=True)
        return 1
    command = [sys.executable, "-m", f"benchmarks.on_gpu.{stage}"]
    command += ["--out", str(args.out), "--seconds", f"{seconds:.0f}"]
    command += ["--dry-run"] * args.dry_run
    if stage == "speed":
        command += ["--peer-python", args.peer_python]
    if stage == "training" and args.earlier:
        command += ["--earlier", str(args.earlier)]
    print(f"== {stage}, at most {seconds:.0f} s", flush=True)
    start = time.monotonic()
    try:
        code = subprocess.run(command, env=environment, timeout=seconds + 5).returncode
    except subprocess.TimeoutExpired:
        print(f"   {stage} ran out of its time", flush=True)
        code = 1
    print(f"   {stage}: {time.monotonic() - start:.0f} s", flush=True)
    return min(abs(code), 1)


def unpack(wheels: Path, folder: Path) -> Path:
    """Unpack wheels into a folder that can stand on PYTHONPATH; return it.

    Raises:
      SystemExit: there is none.
    """
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise SystemExit(f"error: {wheels} holds no wheels (*.whl)")
    for wheel in found:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())

"""Lines of results: printed as they come, kept as JSON, a table at the end."""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = "lines.jsonl"


class Lines:
    """The results of one stage.

    Args:
      stage: its name.
      args: those of `arguments`.
    """

    def __init__(self, stage: str, args: Namespace):
        self.stage, self.path = stage, args.out / FILE
        self.end = time.monotonic() + args.seconds
        self.wrong = 0

    def add(self, name: str, ok: bool | None = None, **figures: Any) -> None:
        """Tell one result.

        Args:
          name: of what was looked at.
          ok: whether it is right; None where nothing is judged.
          figures: name with its unit -> number or word.
        """
        self.wrong += ok is False
        line = {"stage": self.stage, "name": name, "ok": ok, **figures}
        print("  ", text(line), flush=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def left(self) -> float:
        """Return the seconds that the stage still has."""
        return self.end - time.monotonic()

    def room_for(self, seconds: float, name: str) -> bool:
        """Whether there is time for more; tells that it is left out if not."""
        if self.left() >= seconds:
            return True
        self.add(name, skipped="no time left")
        return False

    def finish(self) -> None:
        """End the process: 1 if anything was wrong."""
        sys.exit(1 if self.wrong else 0)


def arguments(description: str, *, peer: bool = False, earlier: bool = False):
    """Return the arguments that a stage was started with."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--dry-run", action="store_true")
    if peer:
        parser.add_argument("--peer-python", default=sys.executable)
    if earlier:
        parser.add_argument("--earlier", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Return what the stages wrote; of equal names the last."""
    path = folder / FILE
    written = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in written]
    return list({(line["stage"], line["name"]): line for line in found}.values())


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return all lines, stage by stage, what is wrong marked."""
    parts = []
    for stage in dict.fromkeys(line["stage"] for line in lines):
        parts.append(f"-- {stage}")
        parts += [text(line) for line in lines if line["stage"] == stage]
    wrong = sum(line["ok"] is False for line in lines)
    judged = sum(line["ok"] is not None for line in lines)
    return "\n".join([*parts, f"-- {judged} judged, {wrong} wrong"])


def text(line: dict[str, Any]) -> str:
    """Return one line as words.

    >>> text({"stage": "ops", "name": "nms", "ok": True, "ms": 1.234})
    'nms                            ok    ms 1.23'
    """
    mark = {True: "ok", False: "WRONG", None: ""}[line["ok"]]
    rest = [
        f"{key} {_short(value)}"
        for key, value in line.items()
        if key not in ("stage", "name", "ok")
    ]
    return f"{line['name']:30s} {mark:5s} {', '.join(rest)}".rstrip()


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""Reads the collectives and the bytes they move out of a compiled program's text."""

import re
from collections.abc import Mapping
from typing import NamedTuple

KINDS = ("all-reduce", "reduce-scatter", "all-gather", "collective-permute")
ITEM_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip

_OP = re.compile(r"= (?P<type>.*?) (?P<kind>" + "|".join(KINDS) + r")(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")


class Collective(NamedTuple):
    """One collective operation of a program, as one device sees it."""

    kind: str  # one of KINDS
    payload: int  # bytes of the whole array: before a scatter, after a gather
    devices: int  # that take part together
    times: float = 1.0  # how often a run of the program comes to it

    @property
    def moved(self) -> float:
        """Bytes that a device sends, by the ring algorithms.

        An all-reduce is a reduce-scatter and an all-gather: 2 P (n - 1) / n.
        """
        if self.kind == "collective-permute":
            return self.times * self.payload
        passes = 2 if self.kind == "all-reduce" else 1
        once = passes * self.payload * (self.devices - 1) / self.devices
        return self.times * once


def collectives(
    text: str, num_devices: int, times: Mapping[str, float] | None = None
) -> list[Collective]:
    """Return the collectives in HLO text, compiled or not.

    Args:
      text: `compiled.as_text()`, or `lowered.as_text(dialect="hlo")`.
      num_devices: of the program, for operations that name no groups.
      times: computation -> how often it runs (`program_cost.runs_of`); None: once, so
        what a loop's body sends counts once.
    """
    found, computation = [], ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match["name"]
        match = _OP.search(line)
        if not match:
            continue
        kind, sizes = match["kind"], _sizes(match["type"])
        if match[3] and kind != "all-reduce":
            # An asynchronous start returns operands, results and flags.
            sizes = [max(sizes)]
        devices = _group_size(line, num_devices)
        payload = sum(sizes)
        if kind == "reduce-scatter":
            payload *= devices  # its type is that of the result
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"  # how a TPU program spells one
        if devices > 1:
            often = (times or {}).get(computation, 1.0)
            found.append(Collective(kind, payload, devices, often))
    return found


def _sizes(type_text: str) -> list[int]:
    """Return the bytes of each array in a type: `(f32[2,3]{1,0}, bf16[4])` -> 24, 8."""
    sizes = []
    for name, shape in _ARRAY.findall(type_text):
        if name in ITEM_BYTES:
            size = ITEM_BYTES[name]
            for n in filter(None, shape.split(",")):
                size *= int(n)
            sizes.append(size)
    return sizes


def _group_size(line: str, num_devices: int) -> int:
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(match[2])
    return num_devices

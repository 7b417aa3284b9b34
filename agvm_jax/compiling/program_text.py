"""Takes a compiled program's text apart: computations, instructions, array sizes."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from agvm_jax.compiling.collectives import ITEM_BYTES

_HEAD = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


class Array(NamedTuple):
    """One array of a type.

    Attributes:
      shape: as the program sees it.
      bytes: as it lies in memory: a TPU keeps arrays in tiles, (8, 128) numbers of the
        two minor dimensions, and pads what does not fill them.
      on_chip: it lies in a memory of the chip itself, which costs no traffic.
    """

    shape: tuple[int, ...]
    bytes: int
    on_chip: bool


class Instruction(NamedTuple):
    """One line: ``%name = type op(operands), rest``."""

    name: str
    arrays: list[Array]
    op: str
    operands: list[str]
    rest: str
    is_root: bool

    def attribute(self, name: str) -> str | None:
        """Return the computation that `name=` calls, if any."""
        match = re.search(rf"\b{name}=%([\w.\-]+)", self.rest)
        return match[1] if match else None


class Program(NamedTuple):
    """Attributes:
    computations: name -> its instructions.
    entry: the name of the one that runs.
    sources: stack frame -> files and functions, innermost first.
    """

    computations: Mapping[str, list[Instruction]]
    entry: str
    sources: Mapping[int, list[str]]


def parse(text: str) -> Program:
    """Take `compiled.as_text()` apart.

    Raises:
      ValueError: it has no entry.
    """
    computations, tables = {}, {name: {} for name in _TABLES}
    entry = current = table = None
    for line in text.splitlines():
        if line in _TABLES:
            table = tables[line]
        elif table is not None and re.match(r"\d+ ", line):
            number, value = line.split(" ", 1)
            table[int(number)] = value
        elif match := _HEAD.match(line):
            table, current = None, computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif current is not None and (match := _NAME.match(line)):
            current.append(_instruction(match, line))
    if entry is None:
        raise ValueError("this is no text of a compiled program: it has no ENTRY")
    return Program(computations, entry, _sources(tables))


def arrays_of(type_text: str) -> list[Array]:
    """Return the arrays of a type: `(f32[2,3]{1,0:T(8,128)S(1)}, bf16[4])` has two."""
    found = []
    for kind, shape, layout in _ARRAY.findall(type_text):
        if kind in ITEM_BYTES:
            shape = tuple(int(n) for n in shape.split(",") if n)
            size = ITEM_BYTES[kind] * math.prod(_padded(shape, layout))
            found.append(Array(shape, size, "S(" in layout))
    return found


def _padded(shape: tuple[int, ...], layout: str) -> list[int]:
    """Return the sides, minor first, rounded up to the tiles of the layout."""
    order, _, tiles = layout.partition(":")
    order = [int(n) for n in order.split(",") if n] or range(len(shape))[::-1]
    sides = [shape[axis] for axis in order]
    if match := re.match(r"T\(([\d,]+)\)", tiles):
        tile = [int(n) for n in match[1].split(",")][::-1]
        for axis, side in enumerate(tile[: len(sides)]):
            sides[axis] = -(-sides[axis] // side) * side
    return sides


def _instruction(match: re.Match, line: str) -> Instruction:
    rest = line[match.end() :]
    end = _end_of_type(rest)
    type_text, rest = rest[:end], rest[end + 1 :]
    op, _, rest = rest.partition("(")
    inside, _, rest = rest.partition(")")
    operands = re.findall(r"%([\w.\-]+)", inside)
    if op == "constant":
        rest = f"value={inside}{rest}"
    if op == "parameter":
        rest = f"number={inside}{rest}"
    return Instruction(
        match[2], arrays_of(type_text), op, operands, rest, bool(match[1])
    )


def _end_of_type(text: str) -> int:
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter in "({") - (letter in ")}")
        if letter == " " and depth == 0:
            return index
    return len(text)


def _sources(tables: Mapping[str, Mapping[int, str]]) -> dict[int, list[str]]:
    """Return for each frame "file:line" of it and its callers, innermost first."""

    def number(text, name):
        return int(re.search(rf"{name}=(\d+)", text)[1])

    places = {
        index: f"{tables['FileNames'][number(text, 'file_name_id')].strip(chr(34))}"
        f":{number(text, 'line')}"
        for index, text in tables["FileLocations"].items()
    }
    sources = {}
    for index in tables["StackFrames"]:
        frame, found, seen = index, [], set()
        while frame in tables["StackFrames"] and frame not in seen:
            seen.add(frame)
            text = tables["StackFrames"][frame]
            found.append(places[number(text, "file_location_id")])
            frame = number(text, "parent_frame_id")
        sources[index] = found
    return sources

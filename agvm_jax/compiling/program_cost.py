"""What the parts of a compiled program cost, by the file of ours that asked for them.

A compiler's own totals count a loop as one turn, and do not say what the bytes are for.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from agvm_jax.compiling.program_text import Array, Instruction, Program, parse

OURS = ("models/", "agvm_jax/")
# Nothing moves: names for parts of arrays, and waiting for what was started.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all",
    "iota", "partition-id", "replica-id",
}  # fmt: skip
_PRODUCTS = ("convolution", "dot")
_CALLS = re.compile(r"\b(?:calls|body|called_computations)=\{?%([\w.\-]+)")
_SLICES = ("dynamic-slice", "gather", "slice")


@dataclasses.dataclass
class Cost:
    """A step's share of one kind of work on one device.

    Attributes:
      bytes: moved to and from the device's memory.
      flops: operations.
      cycles: as the TPU's compiler estimates them; 0 elsewhere.
      seconds: each instruction takes the longer of its operations and its bytes at the
        rates that `costs` was given, one after the other; 0 without.
    """

    bytes: float = 0.0
    flops: float = 0.0
    cycles: float = 0.0
    seconds: float = 0.0


def costs(
    text: str,
    turns: Mapping[str, float] | None = None,
    rates: tuple[float, float] | None = None,
) -> tuple[dict[tuple[bool, str], Cost], set[str]]:
    """Add up what a program does.

    Args:
      text: `compiled.as_text()` of a TPU or a GPU.
      turns: file -> turns of its loops whose length depends on the data; 1 without.
      rates: operations and bytes a second, for `Cost.seconds`.

    Returns:
      (is a convolution or a matrix product, file) -> cost, and the files whose loops
      were taken to have that many turns.
    """
    program = parse(text)
    found, unknown = collections.defaultdict(Cost), set()
    settings = turns or {}, rates
    _walk(program, program.entry, 1.0, settings, found, unknown)
    return dict(found), unknown


def _walk(program, name, times, settings, found, unknown):
    turns, rates = settings
    instructions = program.computations[name]
    arrays = {i.name: i.arrays for i in instructions}
    for instruction in instructions:
        source = _source(program, instruction)
        if instruction.op == "while":
            count = _trip_count(program, instruction)
            if count is None:
                unknown.add(source)
                count = turns.get(source, 1.0)
            body = instruction.attribute("body")
            _walk(program, body, times * count, settings, found, unknown)
        elif inner := _called(instruction):
            for body in inner:
                _walk(program, body, times, settings, found, unknown)
        elif instruction.op not in _FREE and not instruction.op.endswith("-done"):
            cost = found[_is_product(program, instruction), source]
            moved = times * _moved(program, instruction, arrays)
            operations = times * _operations(program, instruction, arrays)
            cost.bytes += moved
            cost.flops += operations
            if rates:
                cost.seconds += max(operations / rates[0], moved / rates[1])
            cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
            cost.cycles += times * int(cycles[1]) if cycles else 0.0


def runs_of(text: str, turns: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return how often each computation of a program runs, by its name.

    Args:
      text, turns: as for `costs`.
    """
    program = parse(text)
    found = collections.defaultdict(float)

    def visit(name, times):
        found[name] += times
        for instruction in program.computations.get(name, ()):
            inner = times
            if instruction.op == "while":
                count = _trip_count(program, instruction)
                if count is None:
                    source = _source(program, instruction)
                    count = (turns or {}).get(source, 1.0)
                inner = times * count
            for called in _CALLS.findall(instruction.rest):
                visit(called, inner)
            for branch in _called(instruction):
                visit(branch, inner)

    visit(program.entry, 1.0)
    return dict(found)


def _called(instruction: Instruction) -> list[str]:
    """Return what a call or a conditional runs; of branches all, which is too much."""
    if instruction.op == "call":
        return [instruction.attribute("to_apply")]
    if instruction.op == "conditional":
        if match := re.search(r"branch_computations=\{([^}]*)\}", instruction.rest):
            return re.findall(r"%([\w.\-]+)", match[1])
        names = ("true_computation", "false_computation")
        return [instruction.attribute(name) for name in names]
    return []


def _trip_count(program: Program, loop: Instruction) -> int | None:
    """Return how often a loop turns, None where the data decide."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    condition = program.computations[loop.attribute("condition")]
    named = {i.name: i for i in condition}
    root = condition[-1]
    if root.op != "compare" or "direction=LT" not in root.rest:
        return None
    match = re.match(r"value=(\d+)", named[root.operands[1]].rest)
    return int(match[1]) if match else None  # loops of JAX start from 0


def _source(program: Program, instruction: Instruction) -> str:
    """Return the innermost file of ours that an instruction stems from."""
    frame = re.search(r"stack_frame_id=(\d+)", instruction.rest)
    for place in program.sources.get(int(frame[1]), []) if frame else []:
        for folder in OURS:
            if folder in place:
                return place[place.rindex(folder) :].split(":")[0]
    return "the compiler's own"


def _fused(program: Program, instruction: Instruction) -> list[Instruction] | None:
    called = instruction.attribute("calls")
    return program.computations[called] if called else None


def _is_product(program: Program, instruction: Instruction) -> bool:
    inner = _fused(program, instruction)
    if inner is not None:
        return any(_is_product(program, each) for each in inner)
    target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
    if target:
        return "conv" in target[1] or "gemm" in target[1] or "matmul" in target[1]
    return instruction.op in _PRODUCTS


def _size(arrays: Iterable[Array]) -> int:
    return sum(array.bytes for array in arrays if not array.on_chip)


def _moved(program, instruction, arrays) -> float:
    """Return the bytes that an instruction reads and writes outside of the chip."""
    read = [arrays.get(name, []) for name in instruction.operands]
    op, written = instruction.op, instruction.arrays
    if op == "slice-start":  # returns the whole, the slice and a flag
        return written[1].bytes + _size(written[1:2])
    if op.endswith("-start"):  # returns the copy, the whole and a flag
        return sum(map(_size, read)) + _size(written[:1])
    if op in _SLICES:
        return 2 * _size(written)
    if op == "dynamic-update-slice":
        return 2 * _size(read[1])
    if op == "scatter":
        return 3 * _size(read[-1])
    inner = _fused(program, instruction)
    if inner is None:
        return sum(map(_size, read)) + _size(written)
    parameters = [i for i in inner if i.op == "parameter"]
    total = _written(inner, written)
    for parameter in parameters:
        operand = read[int(re.match(r"number=(\d+)", parameter.rest)[1])]
        total += min(_size(operand), _read(inner, parameter.name, operand))
    return total


def _read(inner, name, operand) -> float:
    """Return what a fusion reads of a parameter: some slices of it, or all."""
    total = 0.0
    for user in inner:
        if name not in user.operands:
            continue
        if user.op == "bitcast":
            total += _read(inner, user.name, operand)
        elif user.op in _SLICES and user.operands[0] == name:
            total += _size(user.arrays)
        elif user.op != "dynamic-update-slice" or user.operands[0] != name:
            return _size(operand)  # else it is written in place
    return total


def _written(inner, written) -> float:
    named = {i.name: i for i in inner}
    root = next(i for i in inner if i.is_root)
    while root.op == "bitcast":
        root = named[root.operands[0]]
    if root.op == "dynamic-update-slice":
        return _size(named[root.operands[1]].arrays)
    return _size(written)


def _operations(program, instruction, arrays) -> float:
    """Return the operations of an instruction or of all that is fused into it."""
    inner = _fused(program, instruction)
    if inner is not None:
        named = {i.name: i.arrays for i in inner}
        return sum(_operations(program, each, named) for each in inner)
    shapes = [array.shape for array in instruction.arrays]
    count = sum(map(math.prod, shapes[:1]))
    if "dim_labels=" in instruction.rest:
        first, second = (arrays[name][0].shape for name in instruction.operands[:2])
        image, kernel, out = first, second, shapes[0]
        # cuDNN's gradients come with the labels and the window of the convolution.
        if "convBackwardInput" in instruction.rest:
            image, out = out, first
        elif "convBackwardFilter" in instruction.rest:
            kernel, out = out, second
        return convolution_flops(image, kernel, out, instruction.rest)
    if instruction.op == "dot":
        left = arrays[instruction.operands[0]][0].shape
        dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)[1]
        return 2 * count * math.prod(left[int(d)] for d in dims.split(",") if d)
    if instruction.op in ("reduce", "reduce-window", "sort"):
        return math.prod(arrays[instruction.operands[0]][0].shape)
    moves = ("copy", "broadcast", "reshape", "transpose", "pad", "concatenate")
    if instruction.op in (*_FREE, *_SLICES, *moves):
        return 0.0
    return float(count)


def convolution_flops(image, kernel, out, attributes: str) -> float:
    """Return the operations of a convolution, without those on padding and holes.

    TPU programs write products of matrices and sums over batches as convolutions with
    windows as large as the image, of which hardly any place lies inside.

    Args:
      image, kernel, out: shapes.
      attributes: with `window={...}` and `dim_labels=`, as the program has them.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    taps = 1
    for index in range(len(image) - 2):
        name = str(index)

        def field(key, default, index=index):
            return fields[key].split("x")[index] if key in fields else default

        low = int(field("pad", "0_0").split("_")[0])
        hole, spread = int(field("lhs_dilate", 1)), int(field("rhs_dilate", 1))
        side = image[labels[1].index(name)]
        places = np.arange(out[labels[3].index(name)]) * int(field("stride", 1)) - low
        places = places[:, None] + np.arange(kernel[labels[2].index(name)]) * spread
        inside = (places >= 0) & (places <= (side - 1) * hole) & (places % hole == 0)
        taps *= int(inside.sum())
    batch, features = (out[labels[3].index(letter)] for letter in "bf")
    return 2.0 * batch * features * kernel[labels[2].index("i")] * taps

"""The programs of a training step, compiled for a machine, and what each of them takes.

A step with one micro-batch is one program. With several it is `accumulate`, once for
each, and `apply`. What ends a step exists twice, with the measurement of phi and
without (`training.step`).
"""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from agvm_jax.compiling.collectives import KINDS, collectives
from agvm_jax.compiling.machine import Machine
from agvm_jax.compiling.program_cost import Cost, costs, runs_of
from agvm_jax.training.mesh import split
from agvm_jax.training.step import TrainStep

# For loops whose length depends on the data: the links of NMS's longest chain.
TURNS = {"models/ops/nms.py": 10.0}
# What libtpu says: "Used 20.1G of 15.75G hbm", "temporaries (2.0T) exceeds available
# HBM (15.75G)".
_SIZES = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT])")
_TEMPORARY = re.compile(r"\(([\d.]+)([KMGT])\) exceeds [^(]*\(([\d.]+)([KMGT])\)")


class DoesNotFit(Exception):
    """The compiler refused a program for its memory.

    Attributes:
      needed, room: bytes, where it told; else None.
    """

    def __init__(self, sentence: str):
        super().__init__(sentence)
        sizes = _SIZES.search(sentence) or _TEMPORARY.search(sentence)
        units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
        self.needed = self.room = None
        if sizes:
            needed, first, room, second = sizes.groups()
            self.needed = float(needed) * units[first]
            self.room = float(room) * units[second]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a program, or a step of several, takes on one device.

    Attributes:
      held: bytes of its arguments: state, batch, sums.
      temporary: bytes that it needs besides while it runs, results included that do not
        take the place of arguments, and its own text.
      cost: operations, bytes to and from the memory, seconds by the roofline.
      sent: kind of collective -> (how many, bytes that a device sends).
      guessed: files whose loops were taken to have the turns of `TURNS`.
      compile_seconds: how long the compiler took, here.
    """

    held: float
    temporary: float
    cost: Cost
    sent: dict[str, tuple[float, float]]
    guessed: tuple[str, ...]
    compile_seconds: float

    @property
    def memory(self) -> float:
        """Bytes of memory that it takes."""
        return self.held + self.temporary

    @property
    def bytes_sent(self) -> float:
        """Bytes that a device sends to others."""
        return sum(moved for _, moved in self.sent.values())

    def seconds(self, machine: Machine) -> float:
        """The roofline's time: computing and then sending, each at its full rate."""
        return self.cost.seconds + self.bytes_sent / machine.links


def read_step(
    step: TrainStep, state: Any, batch: Any, machine: Machine, measure: bool
) -> Reading:
    """Compiles a step and returns what it takes.

    Args:
      step: as for training.
      state, batch: shapes with their shardings on the machine's devices.
      machine: whose devices these are.
      measure: whether it is a step that measures phi.

    Raises:
      DoesNotFit: the compiler refused a program for its memory.
    """
    ending = step.programs[measure]
    if step.micro_batches == 1:
        return read_program(ending["single"].lower(state, batch), machine)
    mesh = jax.tree.leaves(batch)[0].sharding.mesh
    carry = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split(mesh)),
        jax.eval_shape(step.start, state, batch),
    )
    index = jax.ShapeDtypeStruct((), jnp.int32)
    first = read_program(step.accumulate.lower(state, carry, batch, index), machine)
    last = read_program(ending["apply"].lower(state, carry), machine)
    return _together(first, step.micro_batches, last)


def read_program(lowered: Any, machine: Machine) -> Reading:
    """Compiles a lowered program and reads its text.

    Raises:
      DoesNotFit: the compiler refused it for its memory.
    """
    start = time.perf_counter()
    with _refusals():
        compiled = lowered.compile()
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    rates = machine.flops, machine.bandwidth
    parts, guessed = costs(text, TURNS, rates)
    cost = Cost(
        **{
            field.name: sum(getattr(part, field.name) for part in parts.values())
            for field in dataclasses.fields(Cost)
        }
    )
    sent: dict[str, tuple[float, float]] = {}
    for one in collectives(text, len(machine.devices), runs_of(text, TURNS)):
        count, moved = sent.get(one.kind, (0.0, 0.0))
        sent[one.kind] = count + one.times, moved + one.moved
    return Reading(
        held=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.generated_code_size_in_bytes,
        cost=cost,
        sent={kind: sent[kind] for kind in KINDS if kind in sent},
        guessed=tuple(sorted(guessed)),
        compile_seconds=seconds,
    )


def _together(first: Reading, times: int, last: Reading) -> Reading:
    """Returns what one program several times and another once take."""
    largest = max(first, last, key=lambda one: one.memory)
    kinds = [kind for kind in KINDS if kind in first.sent or kind in last.sent]
    nothing = 0.0, 0.0
    return Reading(
        held=largest.held,
        temporary=largest.temporary,
        cost=Cost(
            **{
                field.name: times * getattr(first.cost, field.name)
                + getattr(last.cost, field.name)
                for field in dataclasses.fields(Cost)
            }
        ),
        sent={
            kind: tuple(
                times * a + b
                for a, b in zip(
                    first.sent.get(kind, nothing),
                    last.sent.get(kind, nothing),
                    strict=True,
                )
            )
            for kind in kinds
        },
        guessed=tuple(sorted({*first.guessed, *last.guessed})),
        compile_seconds=first.compile_seconds + last.compile_seconds,
    )


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        words = " ".join(str(error).split())
        if not any(sign in words for sign in ("RESOURCE_EXHAUSTED", "Ran out of")):
            raise
        raise DoesNotFit(words) from error

"""What compiling for a machine found, in words and as numbers.

Everything here is what compilers say or what follows from it; whatever is a time is an
estimate, and is called one.
"""

import dataclasses
from typing import Any

from agvm_jax.compiling.largest import Largest
from agvm_jax.compiling.machine import Machine
from agvm_jax.compiling.programs import DoesNotFit, Reading
from agvm_jax.training.resolve import Resolved


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A run's step for a machine.

    Attributes:
      name: of the config.
      model, parameters, image_size: what is trained, how many numbers, on what.
      data: how the numbers of classes and images are known.
      machine: what it was compiled for.
      resolved: what follows from the config.
      reading: of a step that measures phi; None: it does not fit.
      plain: of a step that does not; None without AGVM, or if it does not fit.
      refusal: what the compiler said if it does not fit.
      largest: the largest batch of a device; None: not looked for, or no two fit.
    """

    name: str
    model: str
    parameters: int
    image_size: tuple[int, int]
    data: str
    machine: Machine
    resolved: Resolved
    reading: Reading | None
    plain: Reading | None
    refusal: DoesNotFit | None
    largest: Largest | None

    @property
    def fits(self) -> bool:
        """Whether a device has the memory. A TPU's compiler refuses, a GPU's not."""
        return self.reading is not None and self.reading.memory <= self.machine.room

    @property
    def tau(self) -> int:
        """Steps from one measurement to the next."""
        agvm = self.resolved.recipe.agvm
        return agvm.tau if agvm else 1

    def mean(self, number: Any) -> float:
        """Returns a number of a reading, over the steps from one to the next."""
        first = number(self.reading)
        if self.plain is None:
            return first
        return (first + (self.tau - 1) * number(self.plain)) / self.tau

    def agvm_share(self, number: Any) -> float:
        """Returns how much more a measuring step takes, as a share; 0 without AGVM."""
        if self.plain is None or not number(self.plain):
            return 0.0
        return number(self.reading) / number(self.plain) - 1

    @property
    def step_seconds(self) -> float:
        """The roofline's estimate of a step."""
        return self.mean(lambda reading: reading.seconds(self.machine))


def _operations(reading: Reading) -> float:
    return reading.cost.flops


def _bytes(reading: Reading) -> float:
    return reading.cost.bytes


def _sent(reading: Reading) -> float:
    return reading.bytes_sent


SHARES = {"operations": _operations, "bytes": _bytes, "sent": _sent}


def as_dict(compiled: Compiled) -> dict[str, Any]:
    """Returns everything as JSON-ready numbers: bytes, operations, seconds, shares."""
    machine, plan = compiled.machine, compiled.resolved.plan
    sharding = compiled.resolved.sharding
    found: dict[str, Any] = {
        "machine": machine.name,
        "devices": len(machine.devices),
        "config": compiled.name,
        "model": compiled.model,
        "parameters": compiled.parameters,
        "image_size": list(compiled.image_size),
        "batch_size": plan.batch_size,
        "micro_batches": plan.micro_batches,
        "images_at_once": plan.micro_batch_size,
        "shard": sharding.mode,
        "fsdp_size": sharding.fsdp_size,
        "fits": compiled.fits,
        "memory_of_a_device": machine.memory,
        "memory_for_a_step": machine.room,
    }
    if compiled.refusal is not None:
        found["needed"] = compiled.refusal.needed
    if compiled.largest is not None:
        found["largest"] = dataclasses.asdict(compiled.largest)
    if compiled.reading is None:
        return found
    reading = compiled.reading
    found |= {
        "held": reading.held,
        "temporary": reading.temporary,
        "operations": reading.cost.flops,
        "bytes": reading.cost.bytes,
        "cycles_by_the_compiler": reading.cost.cycles,
        "sent": {kind: list(both) for kind, both in reading.sent.items()},
        "loops_taken_for_granted": list(reading.guessed),
        "compile_seconds": reading.compile_seconds,
    }
    if compiled.plain is not None:
        found["agvm"] = {
            "tau": compiled.tau,
            "more_when_it_measures": {
                name: compiled.agvm_share(number) for name, number in SHARES.items()
            },
            "share_of_the_estimate": _agvm_of_time(compiled),
        }
    found["estimate"] = {
        "computing_seconds": compiled.mean(lambda one: one.cost.seconds),
        "sending_seconds": compiled.mean(_sent) / machine.links,
        "step_seconds": compiled.step_seconds,
        "images_a_second": plan.batch_size / compiled.step_seconds,
        "steps": compiled.resolved.total_steps,
        "run_seconds": compiled.resolved.total_steps * compiled.step_seconds,
        "operations_a_second": machine.flops,
        "memory_bytes_a_second": machine.bandwidth,
        "sent_bytes_a_second": machine.links,
    }
    return found


def facts_of(compiled: Compiled) -> dict[str, str]:
    """Returns topic -> what a person should know, in the order of telling."""
    machine, plan = compiled.machine, compiled.resolved.plan
    count = len(machine.devices)
    height, width = compiled.image_size
    facts = {
        "compiled": f"for {machine.name}: {count} devices, {machine.host_devices} a"
        " process; nothing ran",
        "data": compiled.data,
        "model": f"{compiled.model}, {compiled.parameters / 1e6:.2f} M parameters,"
        f" {height} x {width} px",
        **compiled.resolved.reasons,
    }
    facts["memory"] = (
        f"does not fit: {compiled.refusal}"[:400]
        if compiled.reading is None
        else _memory(compiled)
    )
    facts["largest"] = _largest(compiled)
    if compiled.reading is None:
        return facts
    reading = compiled.reading
    facts["a step"] = (
        f"{amount(reading.cost.flops)} operations and"
        f" {amount(reading.cost.bytes)}B to and from memory on each device"
    )
    if reading.guessed:
        facts["a step"] += (
            f"\nloops whose turns were assumed: {', '.join(reading.guessed)}"
        )
    parts = ", ".join(
        f"{number:.0f} {kind} ({amount(moved)}B)"
        for kind, (number, moved) in reading.sent.items()
    )
    facts["sent"] = f"{amount(reading.bytes_sent)}B by each device: {parts}"
    if compiled.plain is not None:
        more = ", ".join(
            f"{100 * compiled.agvm_share(number):+.2f} % {name}"
            for name, number in SHARES.items()
        )
        facts["AGVM"] = (
            f"a step that measures phi, one in {compiled.tau}: {more};\n"
            f"{100 * _agvm_of_time(compiled):.2f} % of the estimated time in all"
        )
    seconds = compiled.step_seconds
    computing = compiled.mean(lambda one: one.cost.seconds)
    total = compiled.resolved.total_steps * seconds / 60
    facts["estimate"] = (
        f"at most {plan.batch_size / seconds:,.0f} images/s,"
        f" {plan.batch_size / seconds / count:.1f} a device:"
        f" {1e3 * computing:.1f} ms of computing and"
        f" {1e3 * (seconds - computing):.1f} ms of sending a step;\n"
        f"{compiled.resolved.total_steps} steps take {total:.1f} min at least, without"
        " data, evaluation and compiling.\n"
        "It is a roofline, no measurement: each instruction of the compiled program"
        " takes the longer of\n"
        f"its operations at {amount(machine.flops)}/s and its bytes at"
        f" {amount(machine.bandwidth)}B/s, one after the other, then what is sent"
        f" goes at {amount(machine.links)}B/s"
    )
    return facts


def amount(number: float) -> str:
    """Returns a number with three digits and a prefix: "2.61 T", to be followed by B.

    >>> amount(2.6123e12), amount(0.0), amount(999.6)
    ('2.61 T', '0 ', '1 k')
    """
    if number == 0:
        return "0 "
    number = float(f"{number:.3g}")
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.4g} {prefix}"
    return f"{number:.3g} "


def does_not_fit(compiled: Compiled) -> str:
    """Returns the sentence for a config whose step a device cannot take."""
    plan, machine = compiled.resolved.plan, compiled.machine
    refusal = compiled.refusal
    needs = ""
    if refusal is not None and refusal.needed and refusal.room:
        needs = f": it needs {amount(refusal.needed)}B of {amount(refusal.room)}B"
    elif compiled.reading is not None:
        memory = compiled.reading.memory
        needs = f": it needs {amount(memory)}B of {amount(machine.room)}B"
    sentence = (
        f"a step of {plan.micro_batch_size} images at once does not fit a device of"
        f" {machine.name}{needs}; "
    )
    if compiled.largest is not None and compiled.largest.confirmed:
        return sentence + (
            f"{compiled.largest.confirmed} do:"
            f" --config.micro_batch_size={compiled.largest.confirmed}."
        )
    return sentence + (
        "try a smaller --config.micro_batch_size or --config.image_size,"
        " --config.train.shard=full, or a machine with more memory."
    )


def _memory(compiled: Compiled) -> str:
    reading, machine = compiled.reading, compiled.machine
    over = "" if reading.memory <= machine.room else ", WHICH DOES NOT FIT"
    kept = f"{amount(machine.memory)}B, of which a step gets {amount(machine.room)}B"
    return (
        f"{amount(reading.memory)}B on each device{over}: {amount(reading.held)}B"
        f" held and {amount(reading.temporary)}B for a while,"
        f"\nwith {compiled.resolved.plan.micro_batch_size} images at once; the chip's"
        f" share of a device is {kept}"
    )


def _largest(compiled: Compiled) -> str:
    largest = compiled.largest
    if largest is None:
        return ""
    (first, low), (second, high) = largest.points
    line = (
        f"by the line through {first} ({amount(low)}B) and {second}"
        f" ({amount(high)}B): {amount(largest.fixed)}B and"
        f" {amount(largest.per_image)}B an image"
    )
    if largest.confirmed:
        found = (
            f"{largest.confirmed} images at once, confirmed by compiling:"
            f" {amount(largest.memory)}B; {line}"
        )
    else:
        found = f"{largest.fitted} images at once {line}; not confirmed"
    if largest.refused:
        found += f";\nrefused: {', '.join(map(str, largest.refused))}"
    return found.replace("; by", ";\nby")


def _agvm_of_time(compiled: Compiled) -> float:
    """Returns the share of the estimated time that measuring phi takes."""
    if compiled.plain is None:
        return 0.0
    return 1 - compiled.plain.seconds(compiled.machine) / compiled.step_seconds

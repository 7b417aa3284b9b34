"""Devices that are not here: compilers need to know them, not to have them."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from jax.experimental import topologies

from agvm_jax.compiling.chips import CHIPS, Chip

CUDA_PLUGINS = "jax_cuda12_plugin", "jax_cuda13_plugin"
EXAMPLES = "tpu:v5e:16x16, tpu:v5p:8x8x8 or cuda:a100:96x8 (hosts x GPUs)"


@dataclasses.dataclass(frozen=True)
class Machine:
    """Many chips of one kind, and the devices that JAX makes of them.

    Attributes:
      name: as it was asked for, "tpu:v5e:16x16".
      chip: what each has.
      devices: to be compiled for, in the order of their replicas.
      host_devices: how many of them a process of the run has.
      chips: how many there are; a chip can be two devices.
    """

    name: str
    chip: Chip
    devices: Sequence[Any]
    host_devices: int
    chips: int

    @property
    def platform(self) -> str:
        """What JAX calls such devices: "tpu" or "gpu"."""
        return "gpu" if self.chip.kind == "cuda" else self.chip.kind

    @property
    def share(self) -> float:
        """What part of a chip a device is."""
        return self.chips / len(self.devices)

    @property
    def memory(self) -> float:
        """Bytes a device has."""
        return self.chip.memory * self.share

    @property
    def room(self) -> float:
        """Bytes of them that a step may take."""
        return (self.chip.memory - self.chip.kept) * self.share

    @property
    def flops(self) -> float:
        """Operations a second of a device, at most."""
        return self.chip.flops * self.share

    @property
    def bandwidth(self) -> float:
        """Bytes a second between a device and its memory, at most."""
        return self.chip.bandwidth * self.share

    @property
    def links(self) -> float:
        """Bytes a second that a device sends to the others, at most."""
        several = self.host_devices < len(self.devices)
        if several and self.chip.network is not None:
            return self.chip.network * self.share
        return self.chip.links * self.share


def find_machine(name: str) -> Machine:
    """Returns the machine of a name such as "tpu:v5e:2x2" or "cuda:a100:96x8".

    Its last part is the topology of a TPU slice, or hosts x GPUs a host. It fetches no
    device: set JAX's platform to "cpu" first where one should not be waited for.

    Raises:
      ValueError: no such machine, or the compiler for it is not installed.
    """
    kind, _, rest = name.partition(":")
    chip_name, _, shape = rest.partition(":")
    chip = CHIPS.get(chip_name)
    if chip is None or chip.kind != kind or not re.fullmatch(r"\d+(x\d+)*", shape):
        known = ", ".join(f"{chip.kind}:{name}" for name, chip in CHIPS.items())
        raise ValueError(
            f"{name!r} is no machine to compile for: use one of {known}, and its shape,"
            f" as in {EXAMPLES}."
        )
    sides = [int(side) for side in shape.split("x")]
    if min(sides) < 1 or (kind == "cuda" and len(sides) != 2):
        raise ValueError(f"{name!r} has a wrong shape: names look like {EXAMPLES}.")
    describe = _tpu if kind == "tpu" else _cuda
    devices = describe(name, chip_name, chip, shape)
    hosts = len({device.process_index for device in devices})
    if kind == "cuda":
        hosts = sides[0]
    return Machine(name, chip, devices, len(devices) // hosts, math.prod(sides))


def _tpu(name: str, chip_name: str, chip: Chip, shape: str) -> list[Any]:
    del chip
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"compiling for {name} takes libtpu, which is not installed: pip install"
            " -e '.[train,tpu]' brings it; no TPU is needed."
        )
    # This is no TPU's host, and no chip is taken: several may compile at once.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{chip_name}:{shape}"
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"libtpu knows no slice {name}: {_sentence(error)}. Names look like"
            f" {EXAMPLES}."
        ) from error
    return list(topology.devices)


def _cuda(name: str, chip_name: str, chip: Chip, shape: str) -> list[Any]:
    del chip_name
    if not any(map(importlib.util.find_spec, CUDA_PLUGINS)):
        raise ValueError(
            f"compiling for {name} takes JAX's CUDA plugin, which is not installed: pip"
            " install -e '.[train,cuda12]' brings it; no GPU is needed."
        )
    try:
        topology = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            target_config=chip.description,
            topology=f"{shape}x1",
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"JAX's CUDA plugin makes no machine of {name}: {_sentence(error)}."
        ) from error
    return list(topology.devices)


def _sentence(error: Exception) -> str:
    """Returns the first line of an error, without the full stop."""
    return " ".join(str(error).split("\n")[0].split()).rstrip(".")[:200]

"""A run's training step, compiled for a machine that is not here, before it is rented.

    python train.py --config configs/mask_rcnn.py --compile_for=tpu:v5e:16x16

The step is that of training: the same function builds it (`planned`). Nothing runs, no
image is read, and no TPU or GPU is needed; the compiler is.
"""

import contextlib
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from agvm_jax.compiling.largest import Largest, find_largest
from agvm_jax.compiling.machine import Machine, find_machine
from agvm_jax.compiling.programs import DoesNotFit, Reading, read_step
from agvm_jax.compiling.report import Compiled, as_dict, does_not_fit, facts_of
from agvm_jax.data.example import empty_row
from agvm_jax.data.pipeline import check_settings
from agvm_jax.data.unopened import Counts, count
from agvm_jax.structures import Batch
from agvm_jax.training.command_line import introduce
from agvm_jax.training.mesh import split
from agvm_jax.training.resolve import Resolved, resolve
from agvm_jax.training.run_folder import folder_of
from configs import base
from models.stack import has_layer_axis
from planned import Planned, plan_training


def report_ahead(config: ConfigDict, name: str) -> None:
    """Compiles a config's step for a machine, prints what it takes and writes it down.

    Args:
      config: the final config.
      name: of the machine, such as "tpu:v5e:16x16".

    Raises:
      ValueError: the config does not fit together or not that machine; there is no
        such machine or no compiler for it; or a device has too little memory, and the
        sentence tells the largest batch that it takes.
    """
    jax.config.update("jax_platforms", "cpu")  # whatever is here is not waited for
    machine = find_machine(name)
    compiled = compile_ahead(config, machine, say=_say)
    path = folder_of(config) / "compiled" / f"{name.replace(':', '_')}.json"
    introduce(facts_of(compiled) | {"written to": str(path)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(as_dict(compiled), indent=2) + "\n", "utf-8")
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written: {error.strerror}. Name another place with"
            " --config.workdir=FOLDER."
        ) from error
    if not compiled.fits:
        raise ValueError(does_not_fit(compiled))


def compile_ahead(
    config: ConfigDict,
    machine: Machine,
    *,
    compare: bool = True,
    search: bool = True,
    say: Callable[[str], None] = lambda words: None,
) -> Compiled:
    """Compiles a config's step for a machine.

    Args:
      config: the final config.
      machine: what for.
      compare: whether to compile a step that does not measure phi too.
      search: whether to look for the largest batch too, which takes two more
        compilations.
      say: told what is being compiled.

    Raises:
      ValueError: as for `report_ahead`, but for too little memory.
    """
    counts = count(config.data)
    resolved = _resolve(config, machine, counts)
    plan = resolved.plan
    check_settings(config.data, config.image_size, plan.images_per_pass)
    planned = _plan(config, resolved, machine, counts)

    def at(images: int, measure: bool = True) -> Reading:
        """A step with as many micro-batches, of another size."""
        if images == plan.micro_batch_size:
            return _read(config, resolved, planned, machine, measure, say)
        other = config.copy_and_resolve_references()
        other.micro_batch_size = images
        other.batch_size = images * plan.micro_batches * plan.replicas
        again = _resolve(other, machine, counts)
        step = _plan(other, again, machine, counts)
        return _read(other, again, step, machine, measure, say)

    refusal = reading = plain = None
    try:
        reading = at(plan.micro_batch_size)
        if compare and resolved.recipe.agvm:
            plain = at(plan.micro_batch_size, measure=False)
    except DoesNotFit as error:
        refusal = error
    return Compiled(
        name=config.name,
        model=f"{config.model.detector} {config.model.backbone}",
        parameters=sum(math.prod(x.shape) for x in jax.tree.leaves(planned.shapes[0])),
        image_size=tuple(config.image_size),
        data=counts.reason,
        machine=machine,
        resolved=resolved,
        reading=reading,
        plain=plain,
        refusal=refusal,
        largest=_largest(at, plan.micro_batch_size, reading, machine)
        if search
        else None,
    )


def _resolve(config: ConfigDict, machine: Machine, counts: Counts) -> Resolved:
    return resolve(
        config,
        num_images=counts.images,
        num_devices=len(machine.devices),
        platform=machine.platform,
        host_devices=machine.host_devices,
        layered=has_layer_axis,
    )


def _plan(
    config: ConfigDict, resolved: Resolved, machine: Machine, counts: Counts
) -> Planned:
    if not config.model.anchors.sizes:
        # They would come from the training boxes; no shape depends on them.
        config = config.copy_and_resolve_references()
        config.model.anchors.sizes = base.get_config().model.anchors.sizes
    return plan_training(
        config,
        resolved,
        machine.devices,
        platform=machine.platform,
        num_classes=counts.classes,
        num_labels=counts.labels,
        num_images=counts.images,
    )


def batch_shapes(config: Any, planned: Planned, rows: int) -> Batch:
    """Returns the shapes of a training batch, as they lie on the devices.

    Args:
      config: the whole of it.
      planned: on which devices.
      rows: images, over all of them.
    """
    sharding = split(planned.partition.mesh)

    def shape(entry: np.ndarray):
        # Image ids: 64 bits on the host, 32 on the device.
        dtype = np.int32 if entry.dtype == np.int64 else entry.dtype
        return jax.ShapeDtypeStruct((rows, *entry.shape), dtype, sharding=sharding)

    row = empty_row(tuple(config.image_size), config.data)
    return Batch(**{name: shape(entry) for name, entry in row.items()})


def _read(
    config: ConfigDict,
    resolved: Resolved,
    planned: Planned,
    machine: Machine,
    measure: bool,
    say: Callable[[str], None],
) -> Reading:
    plan = resolved.plan
    say(
        f"compiling {plan.micro_batch_size} images a device"
        + ("" if measure else ", a step that does not measure phi")
    )
    batch = batch_shapes(config, planned, plan.images_per_pass)
    reading = read_step(planned.step, planned.state_shapes, batch, machine, measure)
    say(f"  compiled in {reading.compile_seconds:.0f} s")
    return reading


def _largest(
    at: Callable[[int], Reading], size: int, reading: Reading | None, machine: Machine
) -> Largest | None:
    """Fits a line and confirms it; None: fewer than two sizes fit."""
    points = {} if reading is None else {size: reading.memory}
    larger = [4 * size, 2 * size] if points else []
    smaller = [size >> halvings for halvings in range(1, size.bit_length())]
    for images in larger + smaller:
        with contextlib.suppress(DoesNotFit):
            points[images] = at(images).memory
        if len(points) == 2:
            first, second = sorted(points.items())
            return find_largest((first, second), machine.room, lambda n: at(n).memory)
    return None


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)

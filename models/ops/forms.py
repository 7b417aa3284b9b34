"""Which form of an op a program gets: one table, and a choice made while tracing.

Most ops have one form, written for GPUs and TPUs, which is the function in `models/ops`
itself. The table names the exceptions: what a CPU computes faster in another way
(`models/cpu`), and what a TPU does.

The choice is static and not the compiler's: a program that is compiled here for another
chip gets that chip's forms, and one that is exported for several platforms takes no
CPU form (`forms_for`). All forms pass the same tests and differ in rounding.
"""

import contextlib
from collections.abc import Callable

import jax

from ..cpu import batch_norm as cpu_batch_norm
from ..cpu import conv as cpu_conv
from ..cpu import dense_pooling as cpu_dense_pooling
from ..cpu import depthwise as cpu_depthwise
from ..cpu import focal_loss as cpu_focal_loss
from ..cpu import matching as cpu_matching
from ..cpu import nms as cpu_nms
from ..cpu import object_chunks as cpu_object_chunks
from ..cpu import pooling as cpu_pooling
from ..cpu import roi_align as cpu_roi_align
from . import tpu_repetition, tpu_roi_align

NAMES = ("cpu", "gpu", "tpu")

# Op -> forms that stand in for the plain one.
FORMS: dict[str, dict[str, Callable]] = {
    "batch_norm": {"cpu": cpu_batch_norm.batch_norm},
    "best_objects": {"cpu": cpu_matching.best_objects},
    "conv2d": {"cpu": cpu_conv.conv2d},
    "dense_max_pool": {"cpu": cpu_dense_pooling.dense_max_pool},
    "depthwise_conv": {"cpu": cpu_depthwise.depthwise_conv},
    "inside_crowd": {"cpu": cpu_matching.inside_crowd},
    "max_pool": {"cpu": cpu_pooling.max_pool},
    "nms": {"cpu": cpu_nms.nms},
    "repeat_labels": {"tpu": tpu_repetition.repeat_labels},
    "roi_align": {
        "cpu": cpu_roi_align.roi_align,
        "tpu": tpu_roi_align.roi_align,
    },
    "sigmoid_focal_loss": {"cpu": cpu_focal_loss.sigmoid_focal_loss},
    "sum_over_objects": {"cpu": cpu_object_chunks.sum_over_objects},
    "upsample": {"tpu": tpu_repetition.upsample},
}

# Part of the key of JAX's caches: what is jitted once is traced anew for other forms.
_CHOSEN = jax.make_user_context(None)


def use_forms(name: str | None) -> contextlib.AbstractContextManager:
    """Return a context in which ops are traced in the forms of "cpu", "gpu" or "tpu".

    None leaves the choice as it is: that of an outer context, or, where nobody has
    chosen, the forms of the platform that JAX computes on by default.

    Raises:
      ValueError: no such forms.

    >>> with use_forms("tpu"):
    ...     current_forms()
    'tpu'
    """
    if name is None:
        return contextlib.nullcontext()
    if name not in NAMES:
        raise ValueError(f"forms {name!r} are not known; choose one of {NAMES}")
    return _CHOSEN(name)


def current_forms() -> str:
    """Return the name of the forms that an op traced here would take."""
    return _CHOSEN.value or forms_for(jax.default_backend())


def forms_for(*platforms: str) -> str:
    """Return the forms for programs of these platforms, in JAX's names of them.

    A program that must run on several kinds takes the forms of GPUs, which run
    everywhere: those for CPUs stand in for ops that an accelerator has kernels for.

    >>> forms_for("cuda"), forms_for("cpu"), forms_for("cpu", "tpu")
    ('gpu', 'cpu', 'gpu')
    """
    kinds = {name if name in ("cpu", "tpu") else "gpu" for name in platforms}
    return kinds.pop() if len(kinds) == 1 else "gpu"


def pick(op: str, plain: Callable) -> Callable:
    """Return the form of an op for the program that is being traced.

    Args:
      op: a name in `FORMS`.
      plain: what everybody takes for whom the table has nothing else.
    """
    return FORMS[op].get(current_forms(), plain)

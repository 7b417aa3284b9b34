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

from ..cpu import conv as cpu_conv
from ..cpu import pooling as cpu_pooling
from . import tpu_repetition

NAMES = ("cpu", "gpu", "tpu")

# Op -> forms that stand in for the plain one.
FORMS: dict[str, dict[str, Callable]] = {
    "conv2d": {"cpu": cpu_conv.conv2d},
    "max_pool": {"cpu": cpu_pooling.max_pool},
    "repeat_labels": {"tpu": tpu_repetition.repeat_labels},
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

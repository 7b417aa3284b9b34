"""Data sets, augmentation and the input pipeline: files on disk -> numpy batches.

`open_dataset(config.data)` gives a `Dataset`, whose splits `train_batches` and
`eval_batches` read. `DataError` says in one sentence what is wrong with a user's data.
They are imported when they are first asked for: a program that only wants one of the
modules pays for that one.
"""

import importlib

_HOMES = {
    "Dataset": "agvm_jax.data.dataset",
    "open_dataset": "agvm_jax.data.dataset",
    "train_batches": "agvm_jax.data.pipeline",
    "eval_batches": "agvm_jax.data.pipeline",
    "DataError": "agvm_jax.data.annotations.errors",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted({*globals(), *_HOMES})

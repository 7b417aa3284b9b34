"""What is compared: each method is a name and what it changes in a config.

The same config keys reach the same builders as in `train.py`. Three things are more
than keys: the control, whose factors come from other runs; optimizers of one's own;
and optimizers that train.py does not offer and optax has.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers


@dataclasses.dataclass(frozen=True)
class Method:
    """One line of a comparison.

    Attributes:
      name: in the names of cells and files.
      title: in tables and figures.
      changes: dotted config keys -> values.
      family: whose rates it is swept over, a key of `RATES`.
      control_of: the method whose averaged mu are this one's fixed factors.
      make_tx: schedule -> optimizer, instead of `optim.name`.
      linear: whether an update is proportional to the rate, so that one compiled
        program serves all rates; False for those that keep averages of parameters.
      evaluated: (optimizer state, parameters) -> the parameters that are evaluated, if
        those are others than the ones that gradients are taken at.
    """

    name: str
    title: str
    changes: Mapping[str, Any]
    family: str
    control_of: str | None = None
    make_tx: Callable[[optax.Schedule], optax.GradientTransformation] | None = None
    linear: bool = True
    evaluated: Callable[[Any, Any], Any] | None = None

    @property
    def modulated(self) -> bool:
        """Whether AGVM is on."""
        return bool(self.changes.get("agvm.enabled"))


# Rate of the middle of a sweep, at batch 512; other batches by the square root. A sweep
# has five rates, each twice the one before, goes on while the best is the last, and
# then looks at the two between the best and its neighbours.
RATES: Mapping[str, float] = MappingProxyType(
    {"sgd": 0.16, "adam": 0.004, "lamb": 0.02, "lars": 4.0}
)


def rate_at(family: str, batch_size: int, place: float) -> float:
    """Return a rate of the sweep; place 0 is its middle, 1 twice as much.

    >>> [rate_at("adam", 512, place) for place in (-2, 0, 2)]
    [0.001, 0.004, 0.016]
    >>> rate_at("adam", 32, 0)
    0.001
    """
    # Three digits: a rate is part of a folder's name.
    return float(f"{RATES[family] * (batch_size / 512) ** 0.5 * 2.0**place:.3g}")


_SGD = {"optim.name": "sgd", "optim.momentum": 0.9, "optim.weight_decay": 1e-4}
_ADAMW = {"optim.name": "adamw", "optim.weight_decay": 0.05}
_LAMB = {"optim.name": "lamb", "optim.weight_decay": 0.01, "optim.eps": 1e-6}
_OFF = {"agvm.enabled": False}
_HALVES = {"agvm.enabled": True, "agvm.estimator": "halves"}
_NORMS = {"agvm.enabled": True, "agvm.estimator": "norms"}


def muon(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon for convolutions: a kernel (h, w, in, out) is a matrix, (h w in) by out.

    optax.contrib.muon alone hands all that is not a plain matrix to AdamW, in a
    detector everything. Updates have AdamW's usual size (0.2 an entry), so that
    AdamW's rates and decay apply.
    """

    def matrices(params):
        return jax.tree.map(
            lambda leaf: (
                MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)
                if leaf.ndim > 1
                else None
            ),
            params,
        )

    return optax.contrib.muon(
        schedule,
        weight_decay=_ADAMW["optim.weight_decay"],
        adam_weight_decay=_ADAMW["optim.weight_decay"],
        muon_weight_dimension_numbers=matrices,
        consistent_rms=0.2,
    )


def schedule_free(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Schedule-free AdamW; it wants a rate that stays constant after the warm-up."""
    return optax.contrib.schedule_free_adamw(
        schedule, weight_decay=_ADAMW["optim.weight_decay"]
    )


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("sgd", "SGD (MegDet's rule)", _SGD | _OFF, "sgd"),
            Method("adamw", "AdamW", _ADAMW | _OFF, "adam"),
            Method("lamb", "LAMB", _LAMB | _OFF, "lamb"),
            Method("agvm_sgd", "AGVM + SGD", _SGD | _HALVES, "sgd"),
            Method("agvm_adamw", "AGVM + AdamW, halves", _ADAMW | _HALVES, "adam"),
            Method("agvm_adamw_norms", "AGVM + AdamW, norms", _ADAMW | _NORMS, "adam"),
            Method(
                "control",
                "AdamW, fixed factors",
                _ADAMW | _OFF,
                "adam",
                control_of="agvm_adamw",
            ),
            Method("agvm_lamb", "AGVM + LAMB", _LAMB | _HALVES, "lamb"),
            Method(
                "lars",
                "LARS",
                {"optim.name": "lars", "optim.weight_decay": 1e-4} | _OFF,
                "lars",
            ),
            Method(
                "pmd_lamb",
                "PMD-LAMB (reconstruction)",
                _LAMB | {"optim.name": "pmd_lamb"} | _OFF,
                "lamb",
            ),
            Method("muon", "Muon", _OFF, "adam", make_tx=muon),
            Method(
                "schedule_free",
                "schedule-free AdamW",
                {"optim.schedule": "constant"} | _OFF,
                "adam",
                make_tx=schedule_free,
                linear=False,
                evaluated=optax.contrib.schedule_free_eval_params,
            ),
            Method("sam", "SAM", _SGD | {"optim.name": "sam"} | _OFF, "sgd"),
        )
    }
)


def own_method(spec: str) -> Method:
    """Return the method of `--optimizer my_module:make_tx`.

    `make_tx` takes a schedule, step -> rate, and returns an optax optimizer; it is
    found from the folder that the command is given in.

    Raises:
      ValueError: there is no such module or function.
    """
    module, _, function = spec.partition(":")
    try:
        make_tx = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--optimizer {spec}: it is MODULE:FUNCTION, a function from a schedule to "
            f"an optax optimizer ({error})"
        ) from error
    name = f"own_{module.replace('.', '_')}_{function}"
    return Method(name, spec, _OFF, "adam", make_tx=make_tx, linear=False)

"""The paper's own runs as commands for a pod: `--scale paper --table N`.

Each line is a full training of train.py. Numbers of the paper stand in docs/results.md;
what its text leaves open, and what the configs chose, in the configs themselves.
"""

from collections.abc import Mapping
from types import MappingProxyType

_RUN = "python train.py --config configs/{config}.py --config.data.root=COCO_2017"
PLAIN = ("agvm.enabled=False",)
NORMS = ("agvm.estimator=norms",)


def _command(config: str, batch: int, *settings: str) -> str:
    name = "_".join([config, str(batch), *(s.split(".")[-1] for s in settings)])
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
    words = [
        _RUN.format(config=config),
        f"--config.name={name}",
        f"--config.batch_size={batch}",
        *(f"--config.{setting}" for setting in settings),
    ]
    return " ".join(words)


def _baseline(config: str, batch: int, name: str) -> str:
    """A baseline at its usual rate, which is then swept."""
    norm = ("model.norm=synced",) if name == "megdet" else ()
    return _command(config, batch, f"optim.name={name}", "optim.lr=0", *PLAIN, *norm)


def _sgd_baselines() -> list[str]:
    commands = []
    for config in ("faster_rcnn", "mask_rcnn"):
        for batch in (32, 256, 512, 1024):
            commands += [
                _baseline(config, batch, "megdet"),
                _baseline(config, batch, "sam"),
                _command(config, batch),
            ]
    return commands


def _lamb_baselines() -> list[str]:
    commands = []
    for config in ("faster_rcnn_adamw", "faster_rcnn_swin"):
        for batch in (32, 256, 512, 1024, 1536):
            commands += [
                _baseline(config, batch, "lamb"),
                _baseline(config, batch, "pmd_lamb"),
                _command(config, batch),
            ]
    return commands


def _tau(tau: int, alpha: float, *more: str) -> str:
    settings = f"agvm.tau={tau}", f"agvm.alpha={alpha}", *more
    return _command("mask_rcnn", 512, *settings)


COMMANDS: Mapping[str, list[str]] = MappingProxyType(
    {
        "1": [
            _command("faster_rcnn", 1024, *PLAIN),
            _command("faster_rcnn", 1024),
            _command("faster_rcnn", 1024, *NORMS),
        ],
        "2": _sgd_baselines(),
        "3": _lamb_baselines(),
        "4": [
            _command("faster_rcnn_adamw", batch) for batch in (32, 256, 512, 1024, 1536)
        ],
        "5": [
            command
            for batch in (4096, 10240)
            for command in (
                _command("retinanet_10k", batch),
                _command("retinanet_10k", batch, *PLAIN),
                _baseline("retinanet_10k", batch, "lamb"),
                _baseline("retinanet_10k", batch, "pmd_lamb"),
            )
        ],
        "6": [
            _command(config, 512, *settings)
            for config in ("faster_rcnn", "faster_rcnn_adamw")
            for settings in (PLAIN, ())
        ],
        "7": [
            _command("mask_rcnn", 512, f"agvm.anchor={anchor}")
            for anchor in ("backbone", "fpn", "rpn", "box_head", "mask_head")
        ],
        "8": [
            _command("uninet_1b", 960, *PLAIN),
            _baseline("uninet_1b", 960, "pmd_lamb"),
            _command("uninet_1b", 960),
        ],
        "9": [
            *(_tau(5, 0.95), _tau(5, 0.97), _tau(10, 0.97), _tau(20, 0.97)),
            *(_tau(20, 0.98), _tau(10, 0.0)),
            _tau(10, 0.0, "'agvm.clip=(0.0, 1e9)'").replace(
                "--config.'agvm", "'--config.agvm"
            ),
        ],
    }
)

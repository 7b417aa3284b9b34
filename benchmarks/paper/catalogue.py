"""The tables: which methods and batches each one is made of.

Numbers are those of the paper's tables; "core", "stability", "baselines", "pipelines"
and "steps" are ours. Tables share cells: what one has trained, the next one finds.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from benchmarks.paper import steps
from benchmarks.paper.forms import (
    Table,
    ablation,
    climb,
    comparison,
    overhead,
    pipelines,
)
from benchmarks.paper.grids import Sweep, sweep_then_seeds
from benchmarks.paper.methods import METHODS, Method
from benchmarks.paper.tables import line

# The question itself first, each group with its seeds before the next one begins.
QUESTION = (("adamw", "agvm_adamw"), ("agvm_adamw_norms", "control"))
FIRST = tuple(name for group in QUESTION for name in group)
SECOND = ("sgd", "agvm_sgd", "lamb")


def _tau(tau: int, alpha: float, **more: Any) -> tuple[tuple[str, Any], ...]:
    pairs = {"agvm.tau": tau, "agvm.alpha": alpha, **more}
    return tuple(sorted(pairs.items()))


# No bound that a ratio of two phi could reach.
NO_CLIP = {"agvm.clip": (0.0, 1e9)}
TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "core": comparison(
            "Does AGVM help, and does measuring matter?",
            {512: (*QUESTION, SECOND), 32: (*QUESTION, SECOND)},
        ),
        "stability": climb(
            "The largest rate at which each method still trains, batch 512",
            (*FIRST, *SECOND, "agvm_lamb"),
            512,
        ),
        "1": overhead(
            "Overhead of a step, and the largest batch that trains",
            (
                *("sgd", "agvm_sgd", "adamw", "agvm_adamw", "agvm_adamw_norms"),
                *("lamb", "agvm_lamb", "lars", "pmd_lamb", "sam"),
            ),
        ),
        "2": comparison(
            "SGD's baselines over batches",
            {batch: (("sgd", "sam", "agvm_sgd"),) for batch in (32, 512, 2048)},
        ),
        "3": comparison(
            "LAMB and PMD-LAMB beside AGVM + AdamW",
            {
                batch: (("adamw", "lamb", "pmd_lamb", "agvm_adamw"),)
                for batch in (256, 512, 1024)
            },
        ),
        "5": comparison(
            "Batches that are extreme for the run: 64 and 32 steps in all",
            {
                batch: (("adamw", "lamb", "pmd_lamb", "agvm_adamw"),)
                for batch in (32, 2048, 4096)
            },
        ),
        "6": comparison(
            "Optimizers with and without AGVM, batch 512",
            {512: (("sgd", "agvm_sgd", "adamw", "agvm_adamw", "lamb", "agvm_lamb"),)},
        ),
        "7": ablation(
            "The anchor (the first line's is the backbone)",
            [(("agvm.anchor", name),) for name in ("fpn", "head")],
        ),
        "8": pipelines(
            "A UniNet with a cascade, batch 256",
            ("uninet",),
            256,
            ("adamw", "pmd_lamb", "agvm_adamw"),
        ),
        "9": ablation(
            "tau and alpha (the first line's: 1 and 0.97)",
            [
                _tau(1, 0.95),
                _tau(2, 0.97),
                _tau(5, 0.97),
                _tau(10, 0.97),
                _tau(10, 0.0),
                _tau(1, 0.0),
                _tau(1, 0.0, **NO_CLIP),
                _tau(10, 0.0, **NO_CLIP),
            ],
        ),
        "baselines": comparison(
            "Other large-batch methods",
            {
                512: (
                    ("muon", "schedule_free"),
                    ("lars", "sam", "pmd_lamb"),
                    ("agvm_lamb",),
                )
            },
        ),
        "pipelines": pipelines(
            "Other detectors and backbones, batch 512", ("faster_rcnn", "swin"), 512
        ),
        "steps": Table(
            "Steps to a target against the batch",
            steps.wanted,
            lambda runs: {},
            steps.report,
        ),
    }
)


def own_table(method: Method) -> Table:
    """Return the comparison of an own optimizer with AdamW, batch 512."""
    pair = [Sweep(METHODS["adamw"], 512), Sweep(method, 512)]
    return Table(
        f"{method.title} beside AdamW, batch 512",
        lambda runs: sweep_then_seeds(runs, pair),
        lambda runs: {"Batch 512": [line(sweep, runs) for sweep in pair]},
    )


REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "4": "Table 4 is the wall time on up to 768 GPUs: it has no tiny form. "
        "--scale paper --table 4 names the commands.",
    }
)

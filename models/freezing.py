"""Parts of a backbone that stay as they were loaded.

What is frozen is model state instead of parameters: no gradient is computed for it, and
no optimizer and no variance statistic ever sees it.
"""

from collections.abc import Iterable

from flax import nnx

from .layers import BatchNorm

# The stem or the patches, and four stages.
PARTS = 5


def freeze(modules: Iterable[nnx.Module]) -> None:
    """Turn every parameter below `modules` into a constant, in place.

    BatchNorm becomes the fixed affine map of its running averages, in training as well.
    """
    for module in modules:
        for _, node in nnx.iter_graph(module):
            if isinstance(node, BatchNorm):
                node.mode = "frozen"
            if isinstance(node, nnx.Module):
                for name, value in list(vars(node).items()):
                    if isinstance(value, nnx.Param):
                        setattr(node, name, nnx.BatchStat(value[...]))


def check_parts(parts: int) -> None:
    """Raise a ValueError unless a backbone has that many parts."""
    if not 0 <= parts <= PARTS:
        raise ValueError(
            f"train.freeze_at is {parts}: a backbone has {PARTS} parts, 1 is its stem "
            f"alone and {PARTS} all of it; -1 decides by what the run starts from"
        )

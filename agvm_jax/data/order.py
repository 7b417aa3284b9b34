"""Two frames, landscape and portrait: which images share a batch, and when they come.

A batch has one shape, so all its images lie in the same frame. Detectron collects
images of either kind in two buckets and hands out whichever is full, which makes a
stream's state the content of its buckets. Here the kind of every batch follows from its
number, so the state stays an index: a run continues exactly, and on other numbers of
processes.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.augment.decode import Size
from agvm_jax.data.storage.records import Source

# Groups that are shuffled among each other. Evenly spaced they would fall into step
# with AGVM's interleaved halves: with one portrait in four, all in the same half.
_BLOCK = 64


class Members:
    """Those images of a source that go into one frame, as a source."""

    def __init__(self, source: Source, indices: np.ndarray):
        self._source = source
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[int(self._indices[index])]


def split_by_orientation(source: Source, frame: Size) -> list[tuple[Members, Size]]:
    """The images at least as wide as high, and the others, each with its frame.

    Args:
      source: with `sizes`, (I, 2) height and width. An image of unknown size counts as
        landscape; it cannot be read either way.
      frame: (H, W) of one of the frames; the other is it turned.
    """
    height, width = np.asarray(source.sizes).T
    return [
        (Members(source, np.flatnonzero(width >= height)), oriented(frame, (1, 1))),
        (Members(source, np.flatnonzero(width < height)), oriented(frame, (2, 1))),
    ]


def oriented(frame: Size, size: Size) -> Size:
    """The frame, turned to suit an image of `size`; squares count as landscape."""
    short, long = sorted(frame)
    return (short, long) if size[1] >= size[0] else (long, short)


def check_group(group: int, batch_size: int) -> None:
    """A batch has one shape, so it may not reach over the end of a group."""
    if group % batch_size:
        raise DataError(
            f"config.data.orientation_group is {group}, but {batch_size} images are"
            " taken in at once and need one frame: choose a multiple of"
            f" {batch_size}, or a micro_batch_size that makes them a divisor of"
            f" {group}."
        )


class TrainOrder:
    """The endless order of training: position -> (which members, index among them).

    Positions g * group .. (g + 1) * group - 1 are a group of one kind. Each kind is
    shuffled anew each epoch and shown as often as it is frequent: of the first 64 b
    groups floor(64 b n_1 / n) are of kind 1, and within each 64 their order is random.
    So all images are shown equally often, up to some groups.

    Args:
      counts: images of the two kinds.
      group: images of one kind in a row.
      seed: 0 to 2**32 - 1.
    """

    def __init__(self, counts: Sequence[int], group: int, seed: int):
        self._counts = tuple(counts)
        self._group = group
        self._seed = seed
        # Threads ask for places close to each other.
        self._block = functools.lru_cache(maxsize=8)(self._draw_block)
        self._shuffled = functools.lru_cache(maxsize=8)(self._shuffle)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> tuple[int, int]:
        number, offset = divmod(position, self._group)
        block, place = divmod(number, _BLOCK)
        kinds, numbers = self._block(block)
        kind = int(kinds[place])
        epoch, index = divmod(
            int(numbers[place]) * self._group + offset, self._counts[kind]
        )
        return kind, int(self._shuffled(kind, epoch)[index])

    def _draw_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Of 64 groups: each one's kind, and its number among those of its kind."""
        before, after = (self._of_kind_1(n * _BLOCK) for n in (block, block + 1))
        order = np.random.default_rng([self._seed, 0, block]).permutation(_BLOCK)
        kinds = (order < after - before).astype(np.int64)
        numbers = np.where(
            kinds,
            before + np.cumsum(kinds) - 1,
            block * _BLOCK - before + np.cumsum(1 - kinds) - 1,
        )
        return kinds, numbers

    def _shuffle(self, kind: int, epoch: int) -> np.ndarray:
        """The order of a kind's images in one epoch."""
        rng = np.random.default_rng([self._seed, 1, kind, epoch])
        return rng.permutation(self._counts[kind])

    def _of_kind_1(self, groups: int) -> int:
        return groups * self._counts[1] // sum(self._counts)


def evaluation_order(
    counts: Sequence[int], batch_size: int, some: int | None = None
) -> list[tuple[int, int]]:
    """Each image once, kind by kind, each kind filled up to whole batches.

    Args:
      counts: images of each kind.
      batch_size: images of a batch, over all processes.
      some: this many images at most, spread evenly over all; None takes every one.

    Returns:
      (which members, index among them); an index beyond them stands for no image.
    """
    total = sum(counts)
    taken = np.arange(total)
    if some is not None and some < total:
        taken = np.arange(some) * total // some
    order, first = [], 0
    for kind, count in enumerate(counts):
        own = taken[(taken >= first) & (taken < first + count)] - first
        gap = -len(own) % batch_size
        order += [(kind, int(index)) for index in own] + [(kind, count)] * gap
        first += count
    return order

"""Where the tensors of the released UniNets and MetaNets belong, for `placing`.

Their blocks, down-sampling modules among them, are counted through from the first to
the last. Our paths are those of blocks that are not stacked (`stack.unstack`).
"""

import re
from collections.abc import Collection, Iterable, Mapping

from ..backbones.uninet_sizes import SIZES

# Of a module's parts, behind the block's name: theirs, ours.
_MB = (
    (r"residual\.1", "shortcut/conv"),
    (r"b1\.0", "expand/norm1"),
    (r"b1\.1", "expand/conv"),
    (r"b1\.2", "expand/norm2"),
    (r"b2\.0", "conv"),
    (r"b2\.1", "norm"),
    (r"b2\.3\.(fc\d)", r"se/\1"),
    (r"b2\.4", "project"),
    (r"b2\.5", "last_norm"),
)
_FUSED = (
    *_MB[:4],
    (r"b2\.0\.(fc\d)", r"se/\1"),
    (r"b2\.1", "project"),
    (r"b2\.2", "last_norm"),
)
_TRANSFORMER = (
    ("", ""),
    (r"residual\.1", "shortcut/conv"),
    (r"pos_embed", "position"),
    (r"(norm\d)", r"\1"),
    (r"attn", "attn"),
    (r"attn\.(qkv|proj)", r"attn/\1"),
    (r"mlp\.(fc\d)", r"\1"),
)
_QUERY = ((r"0", "conv"), (r"1", "norm"), (r"2", "project"))
_DOWN = (
    (r"residual\.[01]", "shortcut"),
    *((rf"(?:downsample|q)\.{theirs}", f"query/{ours}") for theirs, ours in _QUERY),
    (r"q_norm", "query_norm"),
    (r"kv_norm", "norm"),
    (r"(kv|proj)", r"\1"),
)
_BLOCK = re.compile(r"backbone/(stage\d)/(down|first|rest/sequence/(\d+))/")


def uninet_rules(paths: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the rules for the backbone of a UniNet, and for its classifier.

    Args:
      paths: those of the parameters of the model that wants the weights, with stacks
        taken apart (`stack.unstack`): they say which blocks there are.

    >>> paths = ["backbone/stage1/first/last_norm/scale", "backbone/stem/conv/kernel"]
    >>> uninet_rules(paths)[2]
    ('blocks\\\\.0\\\\.residual\\\\.1', 'backbone/stage1/first/shortcut/conv')
    """
    parts: dict[tuple[str, str, int], set[str]] = {}
    for path in paths:
        if found := _BLOCK.match(path):
            stage, place, number = found.groups()
            # Modules are called "down", "first" and "rest", and stand in this order.
            key = stage, place.partition("/")[0], int(number or 0)
            parts.setdefault(key, set()).add(path[found.end() :].partition("/")[0])
    rules = [
        (r"stem\.0", "backbone/stem/conv"),
        (r"stem\.1", "backbone/stem/norm"),
    ]
    for number, (key, names) in enumerate(sorted(parts.items())):
        stage, place, index = key
        ours = f"backbone/{stage}/{place}" + f"/sequence/{index}" * (place == "rest")
        for theirs, part in _parts(place, names):
            name = rf"blocks\.{number}" + rf"\.{theirs}" * bool(theirs)
            rules.append((name, ours + f"/{part}" * bool(part)))
    head = ((r"head\.(\d)", r"classifier/head/\1"), (r"classifier", "classifier"))
    return (*rules, *head)


def is_uninet(names: Collection[str]) -> bool:
    """Return whether a file with these tensors is a UniNet, of any size."""
    return {"stem.0.weight", "stem.1.weight"} <= set(names) and any(
        re.match(r"blocks\.\d+\.b2\.", name) for name in names
    )


def released_size(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return the key of `SIZES` that a file's tensors are of, None if of none.

    Args:
      shapes: of the tensors that `is_uninet` accepts, by their names.
    """
    numbers = [re.match(r"blocks\.(\d+)\.", name) for name in shapes]
    blocks = 1 + max(int(found[1]) for found in numbers if found)
    for size, net in SIZES.items():
        count = sum(net.repeats) + net.modules * (len(net.repeats) - 1)
        if (blocks, shapes["stem.0.weight"][0]) == (count, net.stem):
            return size
    return None


def _parts(place: str, names: set[str]) -> tuple[tuple[str, str], ...]:
    """Return the table of a block that has layers of these names."""
    if place == "down":
        return _DOWN
    if "attn" in names:
        return _TRANSFORMER
    return _MB if "conv" in names else _FUSED

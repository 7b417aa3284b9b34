"""Where the tensors of the released UniNets and MetaNets belong, for `placing`.

Their blocks, down-sampling modules among them, are counted through from the first to
the last. Our paths are those of blocks that are not stacked (`stack.unstack`).
"""

from ..backbones.uninet import STRIDES
from ..backbones.uninet_sizes import Architecture

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
_PARTS = {
    "mb": _MB,
    "fused": _FUSED,
    "attention": _TRANSFORMER,
    "covariance": _TRANSFORMER,
}


def uninet_rules(net: Architecture) -> tuple[tuple[str, str], ...]:
    """Return the rules for the backbone of a network, and for its classifier.

    >>> from ..backbones.uninet_sizes import SIZES
    >>> uninet_rules(SIZES["b0"])[2]
    ('blocks\\\\.0\\\\.residual\\\\.1', 'backbone/stage1/first/shortcut/conv')
    """
    rules = [
        (r"stem\.0", "backbone/stem/conv"),
        (r"stem\.1", "backbone/stem/norm"),
    ]
    number, inputs = 0, net.stem

    def add(parts, path):
        nonlocal number
        for theirs, ours in parts:
            name = rf"blocks\.{number}" + (rf"\.{theirs}" if theirs else "")
            rules.append((name, f"backbone/{path}" + (f"/{ours}" if ours else "")))
        number += 1

    for index, outputs in enumerate(net.channels):
        path, parts = f"stage{index + 1}", _PARTS[net.blocks[index]]
        changes = inputs != outputs or STRIDES[index] != 1
        if net.modules and index:
            add(_DOWN, f"{path}/down")
            changes = False
        if changes:
            add(parts, f"{path}/first")
        for position in range(net.repeats[index] - changes):
            add(parts, f"{path}/rest/sequence/{position}")
        inputs = outputs
    head = ((r"head\.(\d)", r"classifier/head/\1"), (r"classifier", "classifier"))
    return (*rules, *head)

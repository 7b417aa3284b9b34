"""Which settings of the section `model` a set of weights was made with, by its shapes.

A file that does not fit is answered with what has to be set, not only with a list of
tensors: torchvision's RetinaNets, for one, differ in what P6 is computed from ("p5" in
`retinanet_resnet50_fpn`, "c5" in its second version), and nothing in their names tells.
"""

import re
from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]

# (blocks of the third stage, bottlenecks?) -> backbone; (blocks, heads of the first).
_RESNETS = {(2, False): "resnet18", (6, False): "resnet34", (6, True): "resnet50"}
_SWINS = {(6, 3): "swin_t", (18, 3): "swin_s", (18, 4): "swin_b", (18, 6): "swin_l"}

# A kernel that one kind of detector alone has, the most special first.
_DETECTORS = {
    "mask_head/logits/kernel": "mask_rcnn",
    "rpn/conv/kernel": "faster_rcnn",
    "head/class_logits/kernel": "retinanet",
}


def settings_of(shapes: Shapes) -> dict[str, object]:
    """Return keys of `config.model` and their values, as far as shapes tell them.

    Args:
      shapes: our path -> shape in our layout; of a detector or of a backbone alone.

    >>> settings_of({"fpn/p6/kernel": (3, 3, 256, 256), "rpn/conv/kernel": ()})
    {'detector': 'faster_rcnn', 'p6_from': 'p5'}
    """
    found: dict[str, object] = {}
    for path, name in _DETECTORS.items():
        if path in shapes:
            found["detector"] = name
            break
    if backbone := _backbone(shapes):
        found["backbone"] = backbone
    if "backbone/conv1/kernel" in shapes:
        found["width"] = shapes["backbone/conv1/kernel"][-1] / 64
    if "fpn/output/0/kernel" in shapes:
        found["fpn_channels"] = shapes["fpn/output/0/kernel"][-1]
    if "fpn/p6/kernel" in shapes:
        *_, inputs, outputs = shapes["fpn/p6/kernel"]
        found["p6_from"] = "p5" if inputs == outputs else "c5"
    if convs := _count(shapes, r"head/class_tower/(\d+)/.*"):
        found["retina_head.num_convs"] = convs
    return found


def differences(of_file: Shapes, of_model: Shapes) -> list[str]:
    """Return the flags that would give the model the settings of the file.

    Args:
      of_file, of_model: our path -> shape in our layout.

    >>> differences({"fpn/p6/kernel": (3, 3, 8, 8)}, {"fpn/p6/kernel": (3, 3, 32, 8)})
    ['--config.model.p6_from=p5']
    """
    theirs, ours = settings_of(of_file), settings_of(of_model)
    return [
        f"--config.model.{key}={value:g}"
        if isinstance(value, float)
        else f"--config.model.{key}={value}"
        for key, value in theirs.items()
        if key in ours and ours[key] != value
    ]


def _backbone(shapes: Shapes) -> str | None:
    blocks = _count(shapes, r"backbone/layer3/(\d+)/.*")
    if "backbone/conv1/kernel" in shapes:
        return _RESNETS.get((blocks, "backbone/layer3/0/conv3/kernel" in shapes))
    if "backbone/layer1/0/attn/bias_table" in shapes:
        return _SWINS.get((blocks, shapes["backbone/layer1/0/attn/bias_table"][-1]))
    return None


def _count(shapes: Shapes, pattern: str) -> int:
    matches = (re.fullmatch(pattern, path) for path in shapes)
    return len({found[1] for found in matches if found})

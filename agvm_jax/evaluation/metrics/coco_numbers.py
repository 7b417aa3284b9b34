"""The numbers that COCO and LVIS report, read from hotcoco's arrays.

They are pycocotools' own bit for bit, or lvis' (tests compare them): precision is
(T, R, K, A, M) and recall (T, K, A, M) over T overlaps, R recalls, K classes by rising
category id, A areas and M numbers of detections; -1 stands where nothing is defined.
"""

from collections.abc import Mapping, Sequence

import hotcoco
import numpy as np
from jaxtyping import Float, Int

AREAS = ("all", "small", "medium", "large")  # sides < 32, < 96, the rest


def summary(
    result: hotcoco.COCOeval, groups: Mapping[str, Sequence[int]] | None = None
) -> dict[str, float]:
    """Return AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl.

    Fractions in [0, 1], or -1 where there is nothing to find: no ground truth of that
    size, or none at all. AP is the mean over overlaps 0.50, 0.55 ... 0.95 and over the
    classes that occur. The numbers in AR1, AR10, AR100 are the result's `max_dets`; all
    that is not AR1 or AR10 is at the last of them.

    Args:
      result: after `accumulate`.
      groups: name -> places of classes in the arrays; each adds its AP after APl, such
        as LVIS' APr, APc and APf.
    """
    precision, recall = result.eval["precision"], result.eval["recall"]
    numbers = {
        "AP": _mean(precision[:, :, :, 0, -1]),
        "AP50": _mean(precision[_at(result, 0.50), :, :, 0, -1]),
        "AP75": _mean(precision[_at(result, 0.75), :, :, 0, -1]),
    }
    for i, area in enumerate(AREAS[1:], 1):
        numbers[f"AP{area[0]}"] = _mean(precision[:, :, :, i, -1])
    for name, places in (groups or {}).items():
        numbers[f"AP{name}"] = _mean(precision[:, :, list(places), 0, -1])
    for i, most in enumerate(result.params.max_dets):
        numbers[f"AR{most}"] = _mean(recall[:, :, 0, i])
    for i, area in enumerate(AREAS[1:], 1):
        numbers[f"AR{area[0]}"] = _mean(recall[:, :, i, -1])
    return numbers


def class_numbers(
    result: hotcoco.COCOeval, columns: Sequence[int] | Int[np.ndarray, " K"]
) -> list[tuple[float, float]]:
    """Return (AP, AP50) of each class; `columns` says where it stands in the arrays."""
    precision = result.eval["precision"][:, :, :, 0, -1]
    at50 = precision[_at(result, 0.50)]
    return [(_mean(precision[:, :, k]), _mean(at50[:, k])) for k in columns]


def format_numbers(numbers: Mapping[str, float]) -> list[str]:
    """Lines of a table in percent: the APs, then the ARs; "-" for undefined."""
    lines = []
    for kind in ("AP", "AR"):
        names = [name for name in numbers if kind in name]
        lines.append("".join(f"{name:>8}" for name in names))
        lines.append("".join(f"{percent(numbers[name]):>8}" for name in names))
        lines.append("")
    return lines


def class_rows(
    names: Sequence[str],
    wanted: Int[np.ndarray, " N"],
    result: hotcoco.COCOeval,
    columns: Sequence[int] | Int[np.ndarray, " K"],
) -> list[tuple[str, float, float, int]]:
    """Return (name, AP, AP50, how many were to be found) of each class.

    Args:
      names: K.
      wanted: (N,) the class of each object that was to be found.
      result, columns: as for `class_numbers`.
    """
    counts = np.bincount(wanted, minlength=len(names)).tolist()
    scores = class_numbers(result, columns)
    return [
        (name, *score, count)
        for name, score, count in zip(names, scores, counts, strict=True)
    ]


def format_classes(
    rows: Sequence[tuple[str, float, float, int]], counted: str
) -> list[str]:
    """Lines of a table in percent of `class_rows`; `counted` heads the last column."""
    width = max(5, *(len(name) for name, *_ in rows))
    lines = [f"{'class':<{width}}{'AP':>8}{'AP50':>8}{counted:>8}"]
    for name, ap, ap50, count in rows:
        lines.append(f"{name:<{width}}{percent(ap):>8}{percent(ap50):>8}{count:>8}")
    return lines


def percent(value: float) -> str:
    """Format a fraction; "-" for the -1 that stands for "not defined"."""
    return "-" if value < 0 else f"{100 * value:.1f}"


def _mean(values: Float[np.ndarray, "..."]) -> float:
    """Mean over the defined entries, -1 if there are none."""
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else -1.0


def _at(result: hotcoco.COCOeval, overlap: float) -> int:
    return int(np.argmin(np.abs(np.asarray(result.params.iou_thrs) - overlap)))

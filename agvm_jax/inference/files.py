"""Which files of a run folder are its weights, and what lies beside them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from agvm_jax.inference.card import ModelCard, read_card
from agvm_jax.run_files import AVERAGE, BEST, CARD, LAST

# What can be asked for -> the files that answer, the first that is there.
CHOICES: dict[str, Sequence[str]] = {
    "best": (BEST, AVERAGE, LAST),
    "last": (LAST,),
    "average": (AVERAGE,),
}


@dataclasses.dataclass(frozen=True)
class ModelFiles:
    """A model on disk.

    Attributes:
      weights: a file that `models.weights` reads.
      card: what model.json beside it says.
    """

    weights: Path
    card: ModelCard

    def __str__(self) -> str:
        return str(self.weights)


def find_model(run: str | Path, weights: str = "best") -> ModelFiles:
    """Finds the weights of a run and reads its model.json.

    Args:
      run: a run folder, or a file of weights in one.
      weights: of a folder a key of `CHOICES`, or the name of a file in it.

    Raises:
      ValueError: there is no such run, or it has no such weights yet.
    """
    place = Path(run).expanduser()
    if place.is_file():
        if not (place.parent / CARD).is_file():
            raise ValueError(
                f"beside {place} there is no {CARD}, which says what it is the weights"
                " of: name a run folder, or give the config as well (--config)."
            )
        return ModelFiles(place, read_card(place.parent / CARD))
    if not place.is_dir():
        raise ValueError(_no_such_run(place))
    if not (place / CARD).is_file():
        if (place / "config.json").is_file():
            raise ValueError(
                f"{place} has no {CARD} yet: start the run's command again, which"
                " writes it."
            )
        raise ValueError(
            f"{place} is no run folder: it has neither {CARD} nor config.json. A run"
            " folder is runs/NAME/SEED."
        )
    for name in CHOICES.get(weights, (weights,)):
        if (place / name).is_file():
            return ModelFiles(place / name, read_card(place / CARD))
    if there := sorted(path.name for path in place.glob("*.safetensors")):
        raise ValueError(
            f"{place} has no weights {weights!r}; there are {', '.join(there)}."
        )
    raise ValueError(
        f"{place} has no weights yet: they are written after the first evaluation, and"
        " whenever training ends or is stopped by a signal."
    )


def home_of(run: str | Path) -> Path:
    """Returns the folder of a run, also of one that is named by a file in it."""
    place = Path(run).expanduser()
    return place if place.is_dir() else place.parent


def _no_such_run(place: Path) -> str:
    near = place
    while not near.is_dir() and near != near.parent:
        near = near.parent
    runs = sorted(str(card.parent) for card in near.glob(f"*/{CARD}"))
    runs += sorted(str(card.parent) for card in near.glob(f"*/*/{CARD}"))
    known = f" In {near} there are {', '.join(runs[:8])}." if runs else ""
    return f"there is no run folder {place}.{known}"

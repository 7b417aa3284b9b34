"""How far the two estimators of phi are from the truth, and how much they scatter.

    python -m benchmarks.estimators

R groups have the gradient signal + noise, Gaussian in d dimensions. The noise of one
group over the signal, per dimension, is chosen so that the truth, phi of two half
batches as d grows, is a given number whatever R is:

    phi = 1 - s^2 / (s^2 + 2 V),    V the variance of the mean gradient

"halves" is the paper's: one cosine between the means of the even and the odd groups.
"norms" is ours: norms alone, the average over all splits. Bias and standard
deviation are over many samples. In few dimensions (--size 10) the limit is not reached
and both have a bias. Prints a table and draws docs/images/estimators.png.
"""

import argparse
from pathlib import Path

import jax
import matplotlib
import numpy as np

from agvm_jax import phi_of_groups

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ESTIMATORS = ("halves", "norms")
COLORS = {"halves": "#c0392b", "norms": "#1f77b4"}
GROUPS = (2, 4, 8, 32, 128)
TRUTHS = (0.01, 0.1, 0.3, 0.6, 0.9)


def measure(key, groups: int, truth: float, size: int, samples: int):
    """Return `samples` values of phi from each estimator, on the same gradients.

    Args:
      groups: R.
      truth: phi of two half batches in the limit of many dimensions.
      size: d, the dimensions.
      samples: independent measurements.

    Returns:
      {estimator: (samples,)}.
    """
    # 1 - truth = s^2 / (s^2 + 2 V) with s = 1: the variance of the mean gradient.
    variance = truth / (1 - truth) / 2
    scale = np.sqrt(variance * groups / size)  # of one group, in one dimension

    def sample(key):
        noise = scale * jax.random.normal(key, (groups, size))
        grads = {"module": noise + 1 / np.sqrt(size)}
        labels = {"module": "module"}
        return [phi_of_groups(grads, labels, e)["module"] for e in ESTIMATORS]

    # lax.map, not vmap: R x d gradients at a time are enough for the memory.
    phis = jax.jit(lambda keys: jax.lax.map(sample, keys))(
        jax.random.split(key, samples)
    )
    return {e: np.asarray(phi) for e, phi in zip(ESTIMATORS, phis, strict=True)}


def measure_all(size: int, samples: int, seed: int):
    """Return {(truth, R): {estimator: (bias, standard deviation)}}."""
    found = {}
    key = jax.random.key(seed)
    for truth in TRUTHS:
        for groups in GROUPS:
            key, ours = jax.random.split(key)
            phis = measure(ours, groups, truth, size, samples)
            found[truth, groups] = {
                e: (phi.mean() - truth, phi.std(ddof=1)) for e, phi in phis.items()
            }
    return found


def print_table(found, size: int, samples: int) -> None:
    print(
        f"{samples} gradients sampled in {size} dimensions, standard error of a bias:"
    )
    print(f"its standard deviation / {np.sqrt(samples):.0f}\n")
    print("| phi | R | bias halves | bias replicas | sd halves | sd replicas | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (truth, groups), values in found.items():
        (bias_h, sd_h), (bias_r, sd_r) = (values[e] for e in ESTIMATORS)
        print(
            f"| {truth} | {groups} | {bias_h:+.4f} | {bias_r:+.4f} "
            f"| {sd_h:.4f} | {sd_r:.4f} | {sd_h / sd_r:.1f} |"
        )


def draw_figure(found, size: int, path: Path) -> None:
    figure, axes = plt.subplots(1, len(TRUTHS), figsize=(12, 3.4), sharey=True)
    for axis, truth in zip(axes, TRUTHS, strict=True):
        for shift, estimator in zip((-0.08, 0.08), ESTIMATORS, strict=True):
            bias, sd = np.array([found[truth, g][estimator] for g in GROUPS]).T
            axis.errorbar(
                np.arange(len(GROUPS)) + shift,
                bias / truth,
                sd / truth,
                fmt="o",
                markersize=4,
                capsize=3,
                color=COLORS[estimator],
                label=estimator,
            )
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(GROUPS)), GROUPS)
        axis.set_title(f"true phi = {truth}", fontsize=10)
        axis.set_xlabel("groups R")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("(estimate - truth) / truth\nmean, 1 standard deviation")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper right", ncols=2, frameon=False)
    figure.suptitle(f"phi from one measurement, gradients in {size} dimensions")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"\n{path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1000, help="dimensions")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--figure", default="docs/images/estimators.png", help="or empty for none"
    )
    args = parser.parse_args()
    found = measure_all(args.size, args.samples, args.seed)
    print_table(found, args.size, args.samples)
    if args.figure:
        draw_figure(found, args.size, Path(args.figure))


if __name__ == "__main__":
    main()

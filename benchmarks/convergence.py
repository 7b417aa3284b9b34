"""Does AGVM slow an optimizer's convergence? Slopes on a small non-convex problem.

    python -m benchmarks.convergence

A three-layer tanh network is fitted to a noisy teacher; its layers are AGVM's modules
backbone, fpn and head. Each of four groups sees the true gradient, that of all
examples, plus Gaussian noise, which is large in the backbone and small in the head.
Every run of T steps has the rate c / sqrt(T), as the theorems have it, and its figure
is the mean over the run of the squared norm of the true gradient. For SGD the theory
promises a decay like 1 / sqrt(T), for Adam like ln(T) / sqrt(T). Slopes are fitted in
log-log coordinates over the longer half of the runs, seed by seed, with AGVM and
without it. Weight decay is 0, since with it the point of rest is not one of zero
gradient. Prints a table and draws docs/images/convergence.png.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

from agvm_jax import label_tree, mean_and_phi_of_groups, modulate

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

INPUTS, HIDDEN, EXAMPLES = 8, 16, 128
GROUPS = 4
NOISE = {"backbone": 0.05, "fpn": 0.01, "head": 0.002}  # sd of a group's gradient
LENGTHS = tuple(2**k for k in range(6, 13))
RATES = {"sgd": 1.0, "adamw": 0.3}  # c, the same with AGVM and without
OPTIMIZERS = {"sgd": optax.sgd, "adamw": functools.partial(optax.adamw, weight_decay=0)}


def init_params(key):
    keys = jax.random.split(key, 3)
    normal = jax.random.normal
    return {
        "backbone": normal(keys[0], (INPUTS, HIDDEN)) / np.sqrt(INPUTS),
        "fpn": normal(keys[1], (HIDDEN, HIDDEN)) / np.sqrt(HIDDEN),
        "head": normal(keys[2], (HIDDEN,)) / np.sqrt(HIDDEN),
    }


def predict(params, x):
    return jnp.tanh(jnp.tanh(x @ params["backbone"]) @ params["fpn"]) @ params["head"]


def make_data(key):
    """Return inputs (E, I) and targets (E,) of a teacher with noise."""
    for_x, for_teacher, for_noise = jax.random.split(key, 3)
    x = jax.random.normal(for_x, (EXAMPLES, INPUTS))
    teacher = jax.tree.map(lambda w: 2 * w, init_params(for_teacher))
    return x, predict(teacher, x) + 0.5 * jax.random.normal(for_noise, (EXAMPLES,))


def loss(params, x, y):
    return jnp.mean((predict(params, x) - y) ** 2) / 2


def mean_square_gradient(name: str, modulated: bool, length, seed):
    """Run `length` steps; return the mean of ||true gradient||^2 and the last mu."""
    for_data, for_params, for_noise = jax.random.split(jax.random.key(seed), 3)
    x, y = make_data(for_data)
    params = init_params(for_params)
    labels = label_tree(params)
    rate = RATES[name] / jnp.sqrt(jnp.float32(length))
    tx = OPTIMIZERS[name](rate)
    if modulated:
        tx = modulate(tx)

    def step(t, carry):
        params, state, total = carry
        true = jax.grad(loss)(params, x, y)
        keys = jax.random.split(jax.random.fold_in(for_noise, t), len(NOISE))
        grads = {
            name: true[name] + sd * jax.random.normal(key, (GROUPS, *true[name].shape))
            for key, (name, sd) in zip(keys, NOISE.items(), strict=True)
        }
        mean, stats = mean_and_phi_of_groups(grads, labels)
        extra = {"phi": stats.phi} if modulated else {}
        updates, state = tx.update(mean, state, params, **extra)
        params = optax.apply_updates(params, updates)
        return params, state, total + optax.tree.norm(true, squared=True)

    carry = params, tx.init(params), jnp.zeros([])
    _, state, total = jax.lax.fori_loop(0, length, step, carry)
    mu = optax.tree.get(state, "AgvmState").mu if modulated else {}
    return total / length, mu


def run_all(seeds: int):
    """Return (optimizer, modulated) -> ((L, S) figures, last mu of the longest)."""
    found = {}
    for name in OPTIMIZERS:
        for modulated in (False, True):
            one = functools.partial(mean_square_gradient, name, modulated)
            run = jax.jit(jax.vmap(one, (None, 0)))
            results = [run(length, jnp.arange(seeds)) for length in LENGTHS]
            figures = np.array([figure for figure, _ in results])
            mu = {m: float(np.mean(v)) for m, v in results[-1][1].items()}
            found[name, modulated] = figures, mu
    return found


def slopes(figures) -> np.ndarray:
    """Return the log-log slope of each seed over the longer half of the runs: (S,)."""
    half = len(LENGTHS) // 2
    return np.polyfit(np.log(LENGTHS[half:]), np.log(figures[half:]), 1)[0]


def bound(name: str) -> np.ndarray:
    """Return the promised decay at each length, up to a constant: (L,)."""
    lengths = np.array(LENGTHS, float)
    return (np.log(lengths) if name == "adamw" else 1.0) / np.sqrt(lengths)


def title(name: str, modulated: bool) -> str:
    return f"AGVM + {name}" if modulated else name


def print_table(found) -> None:
    print(f"| optimizer | slope (sd over seeds) | bound | at T = {LENGTHS[-1]} | mu |")
    print("| --- | --- | --- | --- | --- |")
    for (name, modulated), (figures, mu) in found.items():
        slope, last = slopes(figures), figures[-1]
        promised = slopes(bound(name)[:, None])[0]
        cells = [
            title(name, modulated),
            f"{slope.mean():.3f} ({slope.std(ddof=1):.3f})",
            f"{promised:.3f}",
            f"{last.mean():.2e} ({last.std(ddof=1):.1e})",
            ", ".join(f"{m} {v:.2f}" for m, v in mu.items()) or "1",
        ]
        print(f"| {' | '.join(cells)} |")


def draw_figure(found, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for axis, name in zip(axes, OPTIMIZERS, strict=True):
        for modulated, color in ((False, "#7f8c8d"), (True, "#c0392b")):
            figures, _ = found[name, modulated]
            mean, sd = figures.mean(1), figures.std(1, ddof=1)
            label = f"{title(name, modulated)}, slope {slopes(figures).mean():.2f}"
            axis.errorbar(LENGTHS, mean, sd, fmt="o-", ms=4, color=color, label=label)
        scale = mean[-1] / bound(name)[-1]
        words = "ln(T) / sqrt(T)" if name == "adamw" else "1 / sqrt(T)"
        axis.plot(LENGTHS, scale * bound(name), "k--", lw=1, label=words)
        axis.set(xscale="log", yscale="log", xlabel="steps T")
        axis.legend(frameon=False)
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("mean squared norm of the true gradient")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"\n{path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--figure", default="docs/images/convergence.png")
    args = parser.parse_args()
    found = run_all(args.seeds)
    print_table(found)
    draw_figure(found, Path(args.figure))


if __name__ == "__main__":
    main()

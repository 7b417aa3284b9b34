"""What a bare machine with one CUDA GPU can tell, in two commands of nine minutes.

    python -m benchmarks.on_gpu a --out FOLDER     # right? fast? a profile
    python -m benchmarks.on_gpu b --out FOLDER     # does AGVM help at 512 and 1,024?

The machine needs Python 3.11 or later with jax[cuda], flax, optax, chex and
orbax-checkpoint, and torch with torchvision for the comparison. ml-collections,
hotcoco and grain may be missing: carry their wheels in a folder (`pip download
--no-deps`), and `--wheels FOLDER` puts them on the path without an installation.

Each stage is a process of its own with a time limit: one that fails costs its own
lines and no others. Every line is also written to FOLDER as JSON, and the table is
printed last. `--dry-run` does the same at sizes that a CPU takes; its figures mean
nothing.
"""

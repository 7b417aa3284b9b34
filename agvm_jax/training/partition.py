"""Where a run's state lies: which array is sharded, over which devices, along what.

* ``none``: every device has all of it.
* ``optimizer``: parameters are whole everywhere; the optimizer's state, and with it
  the update, is shared out over all devices, as far as the shapes divide.
* ``full``: parameters, frozen weights and optimizer state are shared out over the axis
  ``fsdp``, whose devices are neighbours; along ``data`` all of it is repeated.

An array is never padded: a dimension is cut where it divides. What is smaller than
``least_size`` stays whole, since sending it costs more than keeping it.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from agvm_jax.optim.layer_axis import Layered
from agvm_jax.optim.modules import leaf_paths
from agvm_jax.optim.scattering import spec_axes
from agvm_jax.training.mesh import FSDP_AXIS
from agvm_jax.training.state import TrainState

Mode = Literal["none", "optimizer", "full"]
LEAST_SIZE = 2**14  # entries; a kernel of 1 x 1 x 128 x 128


@dataclasses.dataclass(frozen=True)
class Partition:
    """How a `TrainState` lies on a mesh.

    Attributes:
      mesh: all devices of the run; with an axis ``fsdp`` unless ``mode`` is "none".
      mode: "none", "optimizer" or "full".
      least_size: entries below which an array stays whole.
      layered: a tree of arrays -> bool for each: whether its first axis counts layers.
        Such an array is never cut along it, and counts as large as one layer's. None:
        there are none.
    """

    mesh: Mesh
    mode: Mode = "none"
    least_size: int = LEAST_SIZE
    layered: Layered | None = None

    def grad_specs(self, params: Any) -> Any:
        """Returns where each parameter's gradient and update lie: a pytree of specs."""

        def spec(leaf: Any, layered: bool) -> P:
            if not layered:
                return self._spec(leaf)
            layer = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
            return P(None, *self._spec(layer))

        return jax.tree.map(spec, params, self.layers_of(params))

    def layers_of(self, params: Any) -> Any:
        """Returns for each parameter whether its first axis counts layers."""
        if self.layered is None:
            return jax.tree.map(lambda _: False, params)
        return self.layered(params)

    def param_specs(self, params: Any) -> Any:
        """Returns where each parameter lies."""
        if self.mode == "full":
            return self.grad_specs(params)
        return jax.tree.map(lambda _: P(), params)

    def model_state_specs(self, model_state: Any) -> Any:
        """Returns where frozen weights and statistics lie.

        Arrays of two and more dimensions are frozen weights, which a step gives back as
        they were; statistics are vectors, one a layer in a stack, and stay whole.
        """
        if self.mode != "full":
            return jax.tree.map(lambda _: P(), model_state)
        return jax.tree.map(
            lambda leaf, layered: self._spec(leaf) if leaf.ndim - layered > 1 else P(),
            model_state,
            self.layers_of(model_state),
        )

    def state_specs(self, state: TrainState) -> TrainState:
        """Returns where every array of a state lies.

        An array of the optimizer's state goes with the parameter whose path its own
        path ends with, if both have the same shape; any other is whole everywhere.
        """
        grads = self.grad_specs(state.params)
        specs = dict(
            zip(
                leaf_paths(state.params),
                zip(
                    (leaf.shape for leaf in jax.tree.leaves(state.params)),
                    jax.tree.leaves(grads, is_leaf=lambda x: isinstance(x, P)),
                    strict=True,
                ),
                strict=True,
            )
        )

        def of_optimizer(path: str, leaf: Any) -> P:
            parts = path.split("/")
            for start in range(len(parts)):
                shape, spec = specs.get("/".join(parts[start:]), (None, P()))
                if shape == leaf.shape:
                    return spec
            return P()

        average = state.average
        if average is not None:  # updated where the optimizer's state is
            average = {
                "params": grads,
                "model_state": self.model_state_specs(average["model_state"]),
            }
        leaves, treedef = jax.tree.flatten(state.opt_state)
        paths = leaf_paths(state.opt_state)
        rest = jax.tree.map(lambda _: P(), state)
        return dataclasses.replace(
            rest,
            params=self.param_specs(state.params),
            model_state=self.model_state_specs(state.model_state),
            opt_state=treedef.unflatten(map(of_optimizer, paths, leaves)),
            average=average,
        )

    def shardings(self, specs: Any) -> Any:
        """Returns a pytree of specs as shardings over the mesh."""
        return jax.tree.map(
            lambda spec: NamedSharding(self.mesh, spec),
            specs,
            is_leaf=lambda x: isinstance(x, P),
        )

    def put(self, state: TrainState) -> TrainState:
        """Lays a state out. The arrays are fresh buffers, so it may be donated."""
        shardings = self.shardings(self.state_specs(state))
        return jax.jit(lambda tree: tree, out_shardings=shardings)(state)

    def like(self, shapes: TrainState) -> TrainState:
        """Gives a state's shapes the shardings of `put`."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            shapes,
            self.shardings(self.state_specs(shapes)),
        )

    def _spec(self, leaf: Any) -> P:
        """Chooses how an array is cut: over as many devices as its shape allows."""
        sizes = {a: n for a, n in self.mesh.shape.items() if n > 1}
        if self.mode == "none" or math.prod(leaf.shape) < self.least_size:
            return P()
        if self.mode == "full":
            sizes = {a: n for a, n in sizes.items() if a == FSDP_AXIS}
        axes = tuple(sizes)
        choices = [{axes: math.prod(sizes.values())}]
        if len(axes) > 1:
            # Each axis along a dimension of its own; else one axis alone.
            choices += [{(a,): n for a, n in sizes.items()}]
            choices += [{(a,): sizes[a]} for a in reversed(axes)]
        for choice in choices:
            if axes and (dims := _dims(leaf.shape, choice)) is not None:
                return _as_spec(len(leaf.shape), dims)
        return P()


def sharded_dim(spec: P, axis: str) -> int:
    """Returns the dimension that a spec cuts over an axis alone, -1 if none."""
    return next((d for d, names in enumerate(spec) if names == axis), -1)


def bytes_a_device(tree: Any, specs: Any, mesh: Mesh) -> int:
    """Returns the bytes that a device holds of arrays that lie as specs say."""

    def held(leaf: Any, spec: P) -> int:
        parts = math.prod(mesh.shape[a] for a in spec_axes(spec))
        return math.prod(leaf.shape) * leaf.dtype.itemsize // parts

    return sum(jax.tree.leaves(jax.tree.map(held, tree, specs)))


def _dims(shape: tuple[int, ...], choice: dict) -> dict[tuple[str, ...], int] | None:
    """Finds a dimension for each of the axes, the largest that divides; None: no."""
    found: dict[tuple[str, ...], int] = {}
    # The longest cut first: fewest dimensions divide by it.
    for names, parts in sorted(choice.items(), key=lambda item: -item[1]):
        fit = [
            (n, dim)
            for dim, n in enumerate(shape)
            if n and n % parts == 0 and dim not in found.values()
        ]
        if not fit:
            return None
        found[names] = max(fit)[1]
    return found


def _as_spec(ndim: int, dims: dict[tuple[str, ...], int]) -> P:
    entries: list[Any] = [None] * ndim
    for names, dim in dims.items():
        entries[dim] = names if len(names) > 1 else names[0]
    return P(*entries)

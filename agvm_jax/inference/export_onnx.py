"""A function as an ONNX model, by jax2onnx; checked by onnxruntime if it is there."""

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

INPUTS = ("image", "image_size")


class NotConvertible(ValueError):
    """An operation of the function has no ONNX form."""


def export_onnx(
    run: Callable[..., Sequence[jax.Array]],
    frame: tuple[int, int],
    names: Sequence[str],
    path: Path,
) -> None:
    """Writes a function of images and their sizes as an ONNX model of a free batch.

    Args:
      run: (B, H, W, 3) uint8 and (B, 2) int32 -> arrays.
      frame: H and W.
      names: of what it returns.
      path: where; the file appears when it is whole and onnxruntime, if it is
        installed, can read it.

    Raises:
      NotConvertible: an operation that jax2onnx or onnxruntime does not have; named.
      ValueError: jax2onnx is not installed.
    """
    try:
        import jax2onnx
        import onnx
    except ImportError as error:
        raise ValueError(f"ONNX needs {error.name}: pip install '.[onnx]'.") from error
    kinds = [
        jax.ShapeDtypeStruct(("batch", *frame, 3), jnp.uint8),
        jax.ShapeDtypeStruct(("batch", 2), jnp.int32),
    ]
    try:
        model = jax2onnx.to_onnx(run, inputs=kinds)
    except Exception as error:  # of many kinds, from many plugins
        raise NotConvertible(_blocking(error)) from error
    _pool_in_two_dimensions(model, onnx)
    _rename(model, INPUTS, names, onnx)
    partial = path.with_suffix(".partial")
    onnx.save(model, partial)
    try:
        _check(partial)
    except NotConvertible:
        partial.unlink()
        raise
    partial.replace(path)


def _blocking(error: Exception) -> str:
    """Names the operation at which jax2onnx failed."""
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    files = [
        Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)
    ]
    plugins = [file.stem for file in files if "plugins" in file.parts]
    if not plugins:
        return f"jax2onnx does not convert it: {said}"
    return f"jax2onnx does not convert the operation {plugins[-1]!r}: {said}"


def _check(path: Path) -> None:
    try:
        import onnxruntime
    except ImportError:
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its own tales of what it leaves out
    try:
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its kinds have no common base that is public
        said = str(error).rpartition(" : ")[2]
        raise NotConvertible(f"onnxruntime refuses the model: {said}") from error


def _pool_in_two_dimensions(model: Any, onnx: Any) -> None:
    """Gives max pooling the layout that onnxruntime has it in.

    jax2onnx writes the windows (1, 3, 3, 1) of an NHWC array as pooling over four
    dimensions of (1, 1, B, H, W, C), and onnxruntime pools over three at most.
    """
    nodes, made = [], 0
    for node in model.graph.node:
        settings = {a.name: list(a.ints) for a in node.attribute if a.ints}
        kernel = settings.get("kernel_shape", [])
        if node.op_type != "MaxPool" or len(kernel) != 4:
            nodes.append(node)
            continue
        made += 1
        leading = onnx.numpy_helper.from_array(
            np.array([0, 1], np.int64), f"leading_{made}"
        )
        model.graph.initializer.append(leading)
        pads, steps = settings["pads"], settings["strides"]
        inner = [f"pooled_{made}_{i}" for i in range(4)]
        make = onnx.helper.make_node
        nodes += [
            make("Squeeze", [node.input[0], leading.name], [inner[0]]),
            make("Transpose", [inner[0]], [inner[1]], perm=[0, 3, 1, 2]),
            make(
                "MaxPool",
                [inner[1]],
                [inner[2]],
                kernel_shape=kernel[1:3],
                strides=steps[1:3],
                pads=pads[1:3] + pads[5:7],
            ),
            make("Transpose", [inner[2]], [inner[3]], perm=[0, 2, 3, 1]),
            make("Unsqueeze", [inner[3], leading.name], [node.output[0]]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _rename(
    model: Any, inputs: Sequence[str], outputs: Sequence[str], onnx: Any
) -> None:
    """Gives inputs and outputs their names."""
    graph = model.graph
    new = {value.name: name for value, name in zip(graph.input, inputs, strict=True)}
    for value in graph.input:
        value.name = new[value.name]
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = new.get(name, name)
    for value, name in zip(graph.output, outputs, strict=True):
        graph.node.append(onnx.helper.make_node("Identity", [value.name], [name]))
        value.name = name

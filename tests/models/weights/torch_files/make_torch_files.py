"""Write the small files of torch.save that the tests read, and their values.

Run once, in an environment with torch (2.14.1), from any folder:

    python tests/models/weights/torch_files/make_torch_files.py
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent


def make_state_dict() -> OrderedDict:
    """A model's state dict, and what else a tensor can be."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(3, 4)
    )
    state = model.state_dict()
    base = torch.arange(24.0).reshape(4, 6)
    state["parameter"] = torch.nn.Parameter(base[0].clone())
    state["transposed"] = base.t()
    state["part"] = base[1:3, 2:5]  # of the same storage
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.zeros(0, 3)
    for dtype in ("float64", "float16", "bfloat16", "int32", "uint8", "bool"):
        state[dtype] = torch.tensor([0, 1, 3]).to(getattr(torch, dtype))
    return state


def main() -> None:
    state = make_state_dict()
    torch.save(state, FOLDER / "zip.pth")
    torch.save(state, FOLDER / "stream.pth", _use_new_zipfile_serialization=False)
    checkpoint = {"epoch": 3, "model": state, "optimizer": {"state": {}, "lr": [0.1]}}
    torch.save(checkpoint, FOLDER / "checkpoint.pth")
    torch.save(torch.nn.Linear(2, 1), FOLDER / "module.pth")
    np.savez(
        FOLDER / "values.npz",
        **{
            name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor)
            .detach()
            .numpy()
            for name, tensor in state.items()
        },
    )
    for path in sorted(FOLDER.glob("*.*")):
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main()

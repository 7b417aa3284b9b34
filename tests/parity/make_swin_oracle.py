"""Write swin_oracle.npz: what torchvision makes of the seeded weights and inputs.

Run once, in an environment of its own (torch==2.14.1 and torchvision==0.29.1):

    python tests/parity/make_swin_oracle.py

The tests read only the file it writes.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from seeded_swin import CANVASES, make_images, make_swin_tensor

EVERY = 13  # one place in so many is stored
OUTPUT = Path(__file__).with_name("swin_oracle.npz")


def main() -> None:
    model = torchvision.models.swin_t(weights=None)
    model.load_state_dict(
        {
            name: tensor
            if name.endswith("relative_position_index")
            else torch.from_numpy(make_swin_tensor(name, tuple(tensor.shape)))
            for name, tensor in model.state_dict().items()
        }
    )
    # In float64, so that what is stored has no rounding of its own.
    model.double().eval()
    stored = {"every": EVERY}
    for index, canvas in enumerate(CANVASES):
        x = torch.from_numpy(make_images(canvas)).permute(0, 3, 1, 2).double()
        outputs = {}
        for position, layer in enumerate(model.features):
            x = layer(x)
            if position % 2:  # the stages; between them patches are merged
                outputs[f"c{position // 2 + 2}"] = x
        outputs["normed"] = model.norm(x)
        for name, output in outputs.items():
            places = output.detach().flatten(0, 2)[::EVERY]
            stored[f"{name}_{index}"] = places.float().numpy()
            print(canvas, name, tuple(output.shape), places.std().item())
        if index == 0:
            (outputs["normed"] ** 3).mean().backward()
    gradients = {
        name: parameter.grad.norm().item()
        for name, parameter in model.features.named_parameters(prefix="features")
    }
    stored["gradient_names"] = np.array(list(gradients))
    stored["gradient_norms"] = np.array(list(gradients.values()))
    np.savez_compressed(OUTPUT, **stored)
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()

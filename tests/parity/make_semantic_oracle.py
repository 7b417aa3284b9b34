"""Write semantic_oracle.npz: a plain torch module of Panoptic FPN's semantic branch.

Written from Kirillov et al. 2019, section 3, for this test. Run once, in an environment
of its own (torch==2.14.1):

    python tests/parity/make_semantic_oracle.py

The tests read only the file it writes.
"""

from pathlib import Path

import numpy as np
import torch
from seeded_semantic import (
    CHANNELS,
    GROUPS,
    IN_CHANNELS,
    NUM_CLASSES,
    SIZES,
    make_labels,
    make_levels,
    seeded,
)
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

EVERY = 7  # one pixel in so many, each way, of the logits at the input's size
OUTPUT = Path(__file__).with_name("semantic_oracle.npz")


class Stage(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, CHANNELS, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(GROUPS, CHANNELS)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(Stage(CHANNELS if i else IN_CHANNELS) for i in range(count))
            for count in (1, 1, 2, 3)
        )
        self.logits = nn.Conv2d(CHANNELS, NUM_CLASSES, 1)

    def forward(self, maps, size):
        total = 0
        for level, (x, stages) in enumerate(zip(maps, self.levels, strict=True)):
            for number, stage in enumerate(stages):
                x = stage(x)
                if level:
                    x = interpolate(
                        x, scale_factor=2, mode="bilinear", align_corners=False
                    )
                    finer = maps[level - 1 - number]
                    x = x[:, :, : finer.shape[2], : finer.shape[3]]
            total = total + x
        logits = self.logits(total)
        return interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)


def main() -> None:
    branch = Branch().double()
    branch.load_state_dict(
        {
            name: torch.from_numpy(seeded(name, tuple(tensor.shape)))
            for name, tensor in branch.state_dict().items()
        }
    )
    stored = {"every": EVERY}
    for index, size in enumerate(SIZES):
        maps = [
            torch.from_numpy(x).permute(0, 3, 1, 2).double() for x in make_levels(size)
        ]
        maps[3].requires_grad_()
        labels = torch.from_numpy(make_labels(size))
        branch.zero_grad()
        logits = branch(maps, size)
        loss = cross_entropy(logits, labels, ignore_index=-1)
        loss.backward()
        stored[f"loss_{index}"] = loss.item()
        places = logits[:, :, ::EVERY, ::EVERY].permute(0, 2, 3, 1)
        stored[f"logits_{index}"] = places.detach().float().numpy()
        classes = logits.argmax(1).to(torch.uint8).numpy()
        stored[f"classes_{index}"] = classes[:, ::3, ::2]
        stored[f"p5_gradient_{index}"] = maps[3].grad.permute(0, 2, 3, 1).numpy()
        stored[f"gradient_norms_{index}"] = np.array(
            [p.grad.norm().item() for _, p in sorted(branch.named_parameters())]
        )
        print(size, loss.item(), logits.std().item())
    stored["names"] = np.array(sorted(name for name, _ in branch.named_parameters()))
    np.savez_compressed(OUTPUT, **stored)
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()

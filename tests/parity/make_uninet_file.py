"""Write the file of a small UniNet classifier as its training script would.

Run once, in an environment with torch (2.14.1), from any folder:

    python tests/parity/make_uninet_file.py
"""

from pathlib import Path

import torch
from make_uninet_oracle import NETS, Network
from torch import nn

FILE = Path(__file__).with_name("uninet_classifier.pth")


class Classifier(Network):
    """With the head of the released code, its 1280 channels and 1000 classes fewer."""

    def __init__(self, net):
        super().__init__(net)
        self.head = nn.Sequential(
            nn.Conv2d(net.channels[-1], 10, 1, bias=False), nn.BatchNorm2d(10)
        )
        self.classifier = nn.Linear(10, 5)


def main() -> None:
    torch.manual_seed(0)
    model = Classifier(NETS["modules"])
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1.0)
    torch.save({"model": model.half().state_dict(), "epoch": 300}, FILE)
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()

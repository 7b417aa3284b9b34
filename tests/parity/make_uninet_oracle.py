"""Write uninet_oracle.npz: what plain torch modules make of seeded weights and inputs.

Run once, in an environment of its own (torch==2.14.1):

    python tests/parity/make_uninet_oracle.py

The modules follow the descriptions of UniNet and MetaNet, block by block, and carry the
names of their released code, so that its weights go where these go. The tests read only
the file that is written.
"""

import json
from pathlib import Path

import numpy as np
import torch
from seeded_uninet import EXPANSIONS, NETS, STRIDES, Net, make_images
from seeded_uninet import make_uninet_tensor as make_tensor
from torch import nn
from torch.nn import functional

OUTPUT = Path(__file__).with_name("uninet_oracle.npz")
OUTPUTS = {"c2": 1, "c3": 2, "c4": 4, "c5": 5}


def shortcut(inputs, outputs, stride, pooled=True):
    pool = [nn.MaxPool2d(3, stride, 1)] if pooled else []
    return nn.Sequential(*pool, nn.Conv2d(inputs, outputs, 1))


def depthwise(channels, stride=1, bias=True):
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=bias)


class SqueezeExcitation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        squeezed = max(8, (channels // 4 + 4) // 8 * 8)
        squeezed += 8 * (squeezed < 0.9 * (channels // 4))
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        factor = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu())
        return x * ((factor + 3).clamp(0, 6) / 6)


class MBConv(nn.Module):
    fused = False

    def __init__(self, inputs, outputs, stride, expansion, heads):
        super().__init__()
        hidden = inputs * expansion
        if inputs != outputs or stride > 1:
            self.residual = shortcut(inputs, outputs, stride)
        size = 3 if self.fused else 1
        if inputs != hidden or (stride > 1 and not self.fused):
            self.b1 = nn.Sequential(
                nn.BatchNorm2d(inputs),
                nn.Conv2d(
                    inputs,
                    hidden,
                    size,
                    stride if self.fused else 1,
                    size // 2,
                    bias=False,
                ),
                nn.BatchNorm2d(hidden),
                nn.GELU(),
            )
        se = SqueezeExcitation(hidden)
        if not self.fused:
            layers = [
                depthwise(hidden, stride, bias=False),
                nn.BatchNorm2d(hidden),
                nn.GELU(),
                se,
                nn.Conv2d(hidden, outputs, 1),
            ]
        elif inputs != hidden:
            layers = [se, nn.Conv2d(hidden, outputs, 1)]
        else:
            layers = [se, nn.Conv2d(hidden, outputs, 3, stride, 1)]
        self.b2 = nn.Sequential(*layers, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.b1(x) if hasattr(self, "b1") else x
        return self.b2(y) + (self.residual(x) if hasattr(self, "residual") else x)


class FusedMBConv(MBConv):
    fused = True


def attend(q, k, v):
    """Softmax attention of (B, heads, N, d)."""
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return logits.softmax(-1) @ v


class Attention(nn.Module):
    def __init__(self, inputs, outputs, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(inputs, 3 * inputs)
        self.proj = nn.Linear(inputs, outputs)

    def mix(self, q, k, v):
        return attend(q, k, v)

    def forward(self, x):
        """Map (B, N, C)."""
        batch, places, channels = x.shape
        qkv = self.qkv(x).reshape(batch, places, 3, self.heads, -1)
        y = self.mix(*qkv.permute(2, 0, 3, 1, 4))
        return self.proj(y.transpose(1, 2).reshape(batch, places, channels))


class CrossCovariance(Attention):
    def __init__(self, inputs, outputs, heads):
        super().__init__(inputs, outputs, heads)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def mix(self, q, k, v):
        q, k = (functional.normalize(x, dim=-2) for x in (q, k))
        weights = (q.transpose(-1, -2) @ k * self.temperature).softmax(-1)
        return (weights @ v.transpose(-1, -2)).transpose(-1, -2)


class Transformer(nn.Module):
    attention = Attention

    def __init__(self, inputs, outputs, stride, expansion, head_channels):
        super().__init__()
        self.pos_embed = depthwise(inputs)
        self.norm1 = nn.LayerNorm(inputs)
        self.attn = self.attention(inputs, outputs, inputs // head_channels)
        self.gamma_1 = nn.Parameter(torch.ones(outputs))
        self.same = stride == 1 and inputs == outputs
        if self.same:
            self.norm2 = nn.LayerNorm(inputs)
            self.mlp = nn.Module()
            self.mlp.fc1 = nn.Linear(inputs, inputs * expansion)
            self.mlp.fc2 = nn.Linear(inputs * expansion, inputs)
            self.gamma_2 = nn.Parameter(torch.ones(outputs))
        else:
            self.residual = shortcut(inputs, outputs, stride)
            self.ds = nn.MaxPool2d(3, stride, 1)

    def forward(self, x):
        x = x + self.pos_embed(x)
        if not self.same:
            y = self.ds(to_map(self.norm1(to_places(x)), x))
            y = to_map(self.gamma_1 * self.attn(to_places(y)), y)
            return self.residual(x) + y
        places = to_places(x)
        places = places + self.gamma_1 * self.attn(self.norm1(places))
        inner = functional.gelu(self.mlp.fc1(self.norm2(places)))
        return to_map(places + self.gamma_2 * self.mlp.fc2(inner), x)


class CrossCovarianceTransformer(Transformer):
    attention = CrossCovariance


def to_places(x):
    return x.flatten(2).transpose(1, 2)


def to_map(places, like):
    return places.transpose(1, 2).reshape(len(places), -1, *like.shape[2:])


def local_query(inputs, outputs, stride):
    return nn.Sequential(
        depthwise(inputs, stride),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1),
    )


class LocalDownsampling(nn.Module):
    def __init__(self, inputs, outputs, stride, head_channels):
        super().__init__()
        self.residual = shortcut(inputs, outputs, stride, pooled=stride > 1)
        self.downsample = local_query(inputs, outputs, stride)

    def forward(self, x):
        return self.downsample(x) + self.residual(x)


class LocalGlobalDownsampling(nn.Module):
    def __init__(self, inputs, outputs, stride, head_channels):
        super().__init__()
        self.residual = shortcut(inputs, outputs, stride, pooled=stride > 1)
        self.q = local_query(inputs, outputs, stride)
        self.q_norm = nn.LayerNorm(outputs)
        self.kv_norm = nn.LayerNorm(inputs)
        self.kv = nn.Linear(inputs, 2 * outputs)
        self.proj = nn.Linear(outputs, outputs)
        self.heads = outputs // head_channels

    def split(self, x):
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x):
        query = self.q(x)
        q = self.q_norm(to_places(query))
        k, v = self.kv(self.kv_norm(to_places(x))).chunk(2, dim=-1)
        y = attend(self.split(q), self.split(k), self.split(v))
        y = self.proj(y.transpose(1, 2).reshape(q.shape))
        return to_map(y, query) + self.residual(x)


BLOCKS = {
    "mb": MBConv,
    "fused": FusedMBConv,
    "attention": Transformer,
    "covariance": CrossCovarianceTransformer,
}


class Network(nn.Module):
    def __init__(self, net: Net):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, net.stem, 3, 2, 1, bias=False),
            nn.BatchNorm2d(net.stem),
            nn.GELU(),
        )
        self.blocks, self.ends = nn.Sequential(), []
        inputs = net.stem
        for stage, outputs in enumerate(net.channels):
            stride = STRIDES[stage]
            if net.modules and stage:
                kind = (
                    LocalDownsampling
                    if net.blocks[stage] == "mb"
                    else LocalGlobalDownsampling
                )
                self.blocks.append(kind(inputs, outputs, stride, net.head_channels))
                inputs, stride = outputs, 1
            for _ in range(net.repeats[stage]):
                make = BLOCKS[net.blocks[stage]]
                expansion = EXPANSIONS[stage]
                block = make(inputs, outputs, stride, expansion, net.head_channels)
                self.blocks.append(block)
                inputs, stride = outputs, 1
            self.ends.append(len(self.blocks) - 1)

    def forward(self, x):
        x, found = self.stem(x), []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return {level: found[self.ends[stage]] for level, stage in OUTPUTS.items()}


def main() -> None:
    stored = {}
    images = torch.from_numpy(make_images()).permute(0, 3, 1, 2).double()
    for name, net in NETS.items():
        model = Network(net)
        state = model.state_dict()
        model.load_state_dict(
            {
                key: tensor
                if key.endswith("num_batches_tracked")
                else torch.from_numpy(make_tensor(key, tuple(tensor.shape)))
                for key, tensor in state.items()
            }
        )
        # In float64, so that what is stored has no rounding of its own.
        model.double()
        for mode in ("evaluated", "trained"):
            features = model.train(mode == "trained")(images)
            for level, feature in features.items():
                array = feature.detach().permute(0, 2, 3, 1).float().numpy()
                stored[f"{name}/{mode}/{level}"] = array
                print(name, mode, level, array.shape, array.std())
        sum((feature**3).mean() for feature in features.values()).backward()
        shapes = {key: list(tensor.shape) for key, tensor in state.items()}
        norms = {
            key: parameter.grad.norm().item()
            for key, parameter in model.named_parameters()
        }
        moved = {
            key: tensor.norm().item()
            for key, tensor in model.state_dict().items()
            if key.endswith(("running_mean", "running_var"))
        }
        stored[name] = json.dumps({"shapes": shapes, "norms": norms, "moved": moved})
    np.savez_compressed(OUTPUT, **stored)
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()

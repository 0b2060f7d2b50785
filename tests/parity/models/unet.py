"""A U-Net of two levels (Ronneberger et al., 2015), registered from its head down."""

import jax.numpy as jnp
import numpy as np
import torch
from flax import linen
from torch import nn


class DoubleConv(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.GroupNorm(2, out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.GroupNorm(2, out_channels),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.double_conv(x)


class UNet(nn.Module):
    def __init__(self, channels=4, classes=2):
        super().__init__()
        self.outc = nn.Conv2d(channels, classes, 1)
        self.conv1 = DoubleConv(2 * channels, channels)
        self.up1 = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.conv2 = DoubleConv(4 * channels, 2 * channels)
        self.up2 = nn.ConvTranspose2d(4 * channels, 2 * channels, 2, stride=2)
        self.down2 = DoubleConv(2 * channels, 4 * channels)
        self.down1 = DoubleConv(channels, 2 * channels)
        self.inc = DoubleConv(3, channels)

    def forward(self, x):
        first = self.inc(x)
        second = self.down1(nn.functional.max_pool2d(first, 2))
        x = self.down2(nn.functional.max_pool2d(second, 2))
        x = self.conv2(torch.cat([second, self.up2(x)], 1))
        x = self.conv1(torch.cat([first, self.up1(x)], 1))
        return self.outc(x)


class FlaxDoubleConv(linen.Module):
    channels: int

    @linen.compact
    def __call__(self, x):
        for _ in range(2):
            x = linen.Conv(self.channels, (3, 3))(x)
            x = linen.relu(linen.GroupNorm(2, epsilon=1e-5)(x))
        return x


class FlaxUNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        def up(channels, x):
            return linen.ConvTranspose(channels, (2, 2), (2, 2))(x)

        first = FlaxDoubleConv(4)(jnp.moveaxis(x, 1, -1))
        second = FlaxDoubleConv(8)(linen.max_pool(first, (2, 2), (2, 2)))
        x = FlaxDoubleConv(16)(linen.max_pool(second, (2, 2), (2, 2)))
        x = FlaxDoubleConv(8)(jnp.concatenate([second, up(8, x)], -1))
        x = FlaxDoubleConv(4)(jnp.concatenate([first, up(4, x)], -1))
        return jnp.moveaxis(linen.Conv(2, (1, 1))(x), -1, 1)


torch_module, flax_module = UNet, FlaxUNet
rng = np.random.default_rng(0)
INPUTS, LABELS = (rng.normal(size=(2, 3, 8, 8)),), rng.integers(0, 2, (2, 8, 8))

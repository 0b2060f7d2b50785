"""A small ResNet for images of 12 x 12 (He et al., 2016)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from torch import nn


class BasicBlock(nn.Module):
    def __init__(self, in_planes, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride, bias=False),
                nn.BatchNorm2d(planes),
            )

    def forward(self, x):
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out))
        return (out + self.shortcut(x)).relu()


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(BasicBlock(4, 4, 1), BasicBlock(4, 4, 1))
        self.layer2 = nn.Sequential(BasicBlock(4, 8, 2), BasicBlock(8, 8, 1))
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer2(self.layer1(x))
        return self.fc(x.mean((2, 3)))


class BatchNorm(linen.Module):
    """PyTorch's: the running variance is unbiased, which Flax's is not."""

    @linen.compact
    def __call__(self, x, *, train):
        width = x.shape[-1:]
        scale = self.param("scale", linen.initializers.ones, width)
        bias = self.param("bias", linen.initializers.zeros, width)
        means = self.variable("batch_stats", "mean", jnp.zeros, width)
        variances = self.variable("batch_stats", "var", jnp.ones, width)
        now = means.value, variances.value
        if train:
            now = x.mean((0, 1, 2)), x.var((0, 1, 2))
            if not self.is_initializing():
                n = x.size // width[0]
                means.value = 0.9 * means.value + 0.1 * now[0]
                unbiased = now[1] * n / (n - 1)
                variances.value = 0.9 * variances.value + 0.1 * unbiased
        parts = (*now, scale, bias)
        mean, var, scale, bias = (jnp.broadcast_to(part, x.shape) for part in parts)
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias


class FlaxBlock(linen.Module):
    planes: int
    stride: int

    @linen.compact
    def __call__(self, x, *, train):
        def conv(size, stride, name):
            pad = size // 2
            return linen.Conv(
                self.planes, (size, size), stride, pad, use_bias=False, name=name
            )

        out = conv(3, self.stride, "conv1")(x)
        out = linen.relu(BatchNorm(name="bn1")(out, train=train))
        out = BatchNorm(name="bn2")(conv(3, 1, "conv2")(out), train=train)
        if x.shape != out.shape:
            x = conv(1, self.stride, "shortcut_0")(x)
            x = BatchNorm(name="shortcut_1")(x, train=train)
        return linen.relu(out + x)


class FlaxResNet(linen.Module):
    @linen.compact
    def __call__(self, x, *, train=False):
        x = jnp.moveaxis(x, 1, -1)
        x = linen.Conv(4, (3, 3), use_bias=False, name="conv1")(x)
        x = linen.relu(BatchNorm(name="bn1")(x, train=train))
        for i in range(2):
            x = FlaxBlock(4, 1, name=f"layer1_{i}")(x, train=train)
        for i in range(2):
            x = FlaxBlock(8, 2 - i, name=f"layer2_{i}")(x, train=train)
        return linen.Dense(10)(x.mean((1, 2)))


torch_module, flax_module = ResNet, FlaxResNet
rng = np.random.default_rng(0)
INPUTS, LABELS = (rng.normal(size=(5, 3, 12, 12)),), rng.integers(0, 10, 5)

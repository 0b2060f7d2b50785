"""Parameters to and from PyTorch, NNX and safetensors."""

from ch4jax.interop._export import export, load_exported
from ch4jax.interop._nnx import linen_to_nnx, nnx_to_linen
from ch4jax.interop._torch import (
    from_torch,
    import_torch,
    layer_pairs,
    to_torch,
)
from ch4jax.interop._torch_files import load_torch, save_torch

__all__ = [
    "export",
    "from_torch",
    "import_torch",
    "layer_pairs",
    "linen_to_nnx",
    "load_exported",
    "load_torch",
    "nnx_to_linen",
    "save_torch",
    "to_torch",
]

"""Ten models that are not ours, each in PyTorch and in Flax.

The PyTorch side was written first, as its users publish it. Every file offers

- `torch_module()` and `flax_module()`, which take and return the same layouts;
- `example(seed)`: a tuple of inputs and the labels, as NumPy arrays in float64;
- `torch_loss(outputs, labels)` and `flax_loss(outputs, labels)`;
- `OPTIONS`: keywords that `interop` needs to pair the two, often none.

A Linen module with dropout or running statistics takes `train`; an NNX module has
`train()` and `eval()`, as in PyTorch.
"""

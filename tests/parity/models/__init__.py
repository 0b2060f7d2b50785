"""Ten models that are not ours, each in PyTorch and in Flax.

The PyTorch side was written first, as its users publish it. Every file offers

- `torch_module()` and `flax_module()`, which take and return the same layouts;
- `example(seed)`: a tuple of inputs and the labels, as NumPy arrays in float64;
- `LOSSES`, functions of outputs and labels, where the default does not do;
- `OPTIONS`: keywords that `interop` needs to pair the two, often none.

A Linen module with dropout or running statistics takes `train`; an NNX module has
`train()` and `eval()`, as in PyTorch.
"""

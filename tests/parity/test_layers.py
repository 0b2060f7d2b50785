"""The custom layer as the book writes it in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from parity.carry import carry
from support import relative_difference

from ch4jax.layers import MyLinear
from experiments.pytorch import twins


class BooksLinear(twins.MyLinear):
    """The layer with the book's `.data`."""

    def forward(self, x):
        return torch.relu(torch.matmul(x, self.weight.data) + self.bias.data)


def test_the_books_layer_has_our_value_and_passes_its_parameters_no_gradient(x64):
    x = np.random.default_rng(0).normal(size=(2, 5))
    drawn = MyLinear(5, 3).init(jax.random.key(0), jnp.asarray(x))
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), drawn)
    y = MyLinear(5, 3).apply(variables, jnp.asarray(x))
    books, twin = (carry(variables, c(5, 3)) for c in (BooksLinear, twins.MyLinear))
    x = torch.tensor(x)
    assert relative_difference(y, books(x)) <= 1e-12
    assert not books(x).requires_grad
    assert twin(x).requires_grad

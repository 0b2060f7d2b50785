"""The claim about sums in place of products: residual layers, and what an LSTM recalls.

The recurrent networks have 16 units; their task is to name, after 100 steps of noise,
the class that the first input showed.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from ch4jax import recurrent
from ch4jax.initialization import torch_kernel
from ch4jax.training import Data, fit
from experiments.claims import depth
from experiments.claims.claim import Finding, Setting
from experiments.common import plots
from experiments.common.networks import classifier

LENGTH = 101
OPEN = 5.0  # such a bias of the forget gates keeps 0.993 of a cell a step


def recall(key: PRNGKeyArray) -> Data:
    """Draw sequences that show one of four classes first, and then noise."""
    label_key, noise_key = jax.random.split(key)
    labels = jax.random.randint(label_key, (512,), 0, 4)
    noise = 3 * jax.random.normal(noise_key, (512, LENGTH, 1))
    first = jax.nn.one_hot(labels, 4)[:, None]
    shown = jnp.pad(first, ((0, 0), (0, LENGTH - 1), (0, 0)))
    return jnp.concatenate([shown, noise], axis=2), labels


def train_to_recall(
    setting: Setting,
    layer: Callable[..., Array],
    starts: Sequence[Callable[..., recurrent.Params]],
    rates: Sequence[float],
) -> tuple[depth.Grid, Float[np.ndarray, "networks runs steps"]]:
    """Train by Adam from each start, at each rate.

    Returns:
      Accuracy on new sequences; before training, the norm of the gradient of the last
      output in each input, the last step's first.
    """

    @classifier
    def metrics_fn(params: tuple, x: Array, *, key: PRNGKeyArray | None) -> Array:
        return layer(params[0], x)[:, -1] @ params[1]

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None), out_axes=(2, 1))
    def run(key: PRNGKeyArray, rates: Array) -> tuple[Array, Array]:
        train_key, new_key, init_key, output_key, fit_key = jax.random.split(key, 5)
        train_data, new = recall(train_key), recall(new_key)
        drawn = [start(5, 16, key=jax.random.clone(init_key)) for start in starts]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
        output = torch_kernel(output_key, (16, 4))

        def member(params: recurrent.Params, rate: Array) -> Array:
            optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
            end, _ = fit(
                (params, output),
                train_data,
                metrics_fn=metrics_fn,
                optimizer=optimizer,
                epochs=10,
                batch_size=16,
                key=fit_key,
            )
            return metrics_fn(end, *new, key=None)["accuracy"].mean()

        def back(params: recurrent.Params) -> Array:
            last = jax.grad(lambda x: layer(params, x)[0, -1].sum())
            return last(new[0][:1])[0, ::-1]

        each_rate = jax.vmap(member, (None, 0))
        accuracy = jax.vmap(each_rate, (0, None))(stacked, rates)
        return accuracy, jax.vmap(back)(stacked)

    keys = setting.keys(setting.size(8, 4))
    accuracy, gradients = run(keys, jnp.asarray(rates))
    # The squares of such small numbers need float64.
    norms = np.linalg.norm(np.asarray(gradients, float), axis=3)
    return np.asarray(accuracy), norms


def sums_for_products(setting: Setting) -> Finding:
    """Claim 13: residual connections; an LSTM that must recall its first input."""
    plain, _ = depth.train(setting, depth.RELU, [depth.SMALL])
    residual, _ = depth.train(setting, depth.RESIDUAL, [depth.SMALL])
    layers = np.concatenate([plain, residual])
    opened = partial(recurrent.init_lstm, forget_bias=OPEN)
    recall_by = partial(train_to_recall, setting)
    one, simple = recall_by(recurrent.rnn, [recurrent.init_rnn], (0.001, 0.01))
    two, gated = recall_by(recurrent.lstm, [recurrent.init_lstm, opened], (0.001,))
    recalled, gradients = [*depth.best(one), *depth.best(two)], [*simple, *gated]
    with setting.figure(
        columns=3,
        height=3.6,
        title="Residual connections train 20 layers, open forget gates 100 steps",
        caption="Where a sum replaces the product, the gradient arrives and the "
        "network learns; an LSTM's default forget gates halve it at every step.",
        alt="Three charts: accuracy of 20 layers with and without residual connections "
        "against the learning rate; gradient of the last output against the steps "
        "back; accuracy of three recurrent networks at recalling their first input.",
    ) as (left, middle, right):
        depth.curves(left, "20 layers", layers, ["plain", "residual"])
        for values in gradients:
            plots.quantiles(middle, np.arange(LENGTH), values.T)
        middle.set(yscale="log", xlabel="steps back", ylabel="gradient of last output")
        middle.set_title("Before training", fontsize=9)
        for i, values in enumerate(recalled):
            right.plot(np.full(values.shape, i), values, "o", alpha=0.6)
        right.set(ylim=(0, 1), xlim=(-0.5, 2.5), ylabel="test accuracy, a dot a run")
        right.set_xticks(range(3), ["plain", "LSTM", "LSTM,\nopen gates"])
        right.set_title(f"Recall after {LENGTH - 1} steps", fontsize=9)
    (plain, residual), (rnn, lstm, opened) = depth.best(layers), recalled
    return Finding(
        "Sums in place of products let deep and long networks learn",
        depth.SOURCE,
        depth.GAINED,
        0.05,
        {
            "residual": residual - plain,
            "LSTM with open gates": opened - rnn,
            "LSTM as PyTorch starts it": lstm - rnn,
        },
    )

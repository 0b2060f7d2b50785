"""Claims about linear models: too many features, decay, subsets, interactions."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.claims.claim import Finding, Setting
from experiments.common import plots


def more_features_than_rows(setting: Setting) -> Finding:
    """Claim 1: fit 50 features by least squares to few and to many rows."""
    features, noise = 50, 0.5
    sizes = np.array([5, 10, 25, 40, 50, 60, 75, 100, 200, 500])

    @jax.jit
    @jax.vmap
    def errors(key: PRNGKeyArray) -> Float[Array, "sizes splits"]:
        """Return the mean squared error on training and on new rows."""
        w_key, x_key, noise_key = jax.random.split(key, 3)
        w = jax.random.normal(w_key, (features,)) / features**0.5
        x = jax.random.normal(x_key, (2, sizes[-1], features))
        y = x @ w + noise * jax.random.normal(noise_key, x.shape[:2])

        def fit(num_rows: Array) -> Float[Array, " splits"]:
            real = jnp.arange(sizes[-1]) < num_rows
            # Rows of zeros change nothing. Of all that fit best, the smallest weights.
            fitted = jnp.linalg.pinv(x[0] * real[:, None]) @ (y[0] * real)
            squares = jnp.square(x @ fitted - y)
            return jnp.stack([squares[0].mean(where=real), squares[1].mean()])

        return jax.lax.map(fit, jnp.asarray(sizes))

    found = np.asarray(errors(setting.keys(1, setting.size(100, 40))))
    with setting.folder.figure(
        "claim01.png",
        size=(8.5, 3.2),
        title="Least squares errs most on new rows where rows and features are as many",
        caption="Error on new rows against rows per feature: a peak at one, and far "
        "above the training error to its left.",
        alt="Line chart on logarithmic axes of the median mean squared error on "
        "training and on new rows against the number of rows per feature.",
    ) as axes:
        for i, split in enumerate(("training rows", "new rows")):
            values = np.maximum(found[..., i], 1e-4).T  # what is zero is drawn there
            plots.quantiles(axes, sizes / features, values, label=split)
        axes.axhline(noise**2, color="0.3", ls=":", label="noise")
        axes.set(xlabel="rows / features", ylabel="mean squared error")
        axes.set(xscale="log", yscale="log", ylim=(5e-5, None))
        axes.legend()
    gap = found[..., 1] - found[..., 0]
    few, many = (np.flatnonzero(sizes == n)[0] for n in (25, 500))
    return Finding(
        1,
        "A linear model with twice as many features as rows overfits",
        "4.5; D2L 3.6",
        "MSE on new rows minus on training rows, more than with a tenth as many",
        0.25,
        {"": gap[:, few] - gap[:, many]},
        "claim01.png",
    )

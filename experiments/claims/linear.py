"""Claims about linear models: too many features, decay, subsets."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ch4jax.weight_decay import l1_penalty, soft_threshold
from experiments.claims.claim import Finding, Setting
from experiments.common import linear_problem, plots


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

    found = np.asarray(errors(setting.keys(setting.size(100, 40))))
    with setting.figure(
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
        "A linear model with twice as many features as rows overfits",
        "4.5; D2L 3.6",
        "MSE on new rows minus on training rows, more than with a tenth as many",
        0.25,
        {"": gap[:, few] - gap[:, many]},
    )


def lasso(
    gram: Float[Array, "inputs inputs"],
    moments: Float[Array, " inputs"],
    lambd: Float[Array, ""],
) -> Float[Array, " inputs"]:
    """Minimise half the mean squared error plus `lambd` times the L1 norm.

    Args:
      gram: x^T x / rows.
      moments: x^T y / rows.
      lambd: coefficient of the penalty.
    """
    rate = 1 / jnp.linalg.norm(gram, jnp.inf)  # no eigenvalue is larger than that norm

    def step(_: int, w: Array) -> Array:
        return soft_threshold(w - rate * (gram @ w - moments), rate * lambd)

    return jax.lax.fori_loop(0, 500, step, jnp.zeros_like(moments))


def dropping_is_blunter(setting: Setting) -> Finding:
    """Claim 8: keep the largest 10 of 50 coefficients, or shrink all by L2 or L1."""
    features, rows, noise, kept = 50, 100, 1.0, 10

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def errors(key: PRNGKeyArray, num_nonzero: int) -> Float[Array, "errors kept"]:
        """Return training error, and error on new rows: dropping, L2, L1."""
        w_key, x_key, noise_key = jax.random.split(key, 3)
        w = jax.random.normal(w_key, (features,)) / jnp.sqrt(num_nonzero)
        w = jnp.where(jnp.arange(features) < num_nonzero, w, 0)
        x = jax.random.normal(x_key, (rows + 1000, features))
        y = x @ w + noise * jax.random.normal(noise_key, x.shape[:1])
        gram, moments = x[:rows].T @ x[:rows] / rows, x[:rows].T @ y[:rows] / rows
        eye = jnp.eye(features)

        @jax.vmap
        def losses(w: Array) -> Array:
            squares = jnp.square(x @ w - y)
            return jnp.stack([squares[:rows].mean(), squares[rows:].mean()])

        rank = jnp.argsort(jnp.argsort(-jnp.abs(jnp.linalg.solve(gram, moments))))
        keep = rank[None] < jnp.arange(1, features + 1)[:, None]
        strengths = jnp.logspace(-4, 2, 40)
        # Of what is dropped, the equation is w = 0. All equations in one call: on few
        # cores, XLA's calls of LAPACK can block each other for ever.
        some = jnp.where(keep[:, :, None] & keep[:, None], gram, eye)
        left = jnp.concatenate(
            [some, gram[None] + strengths[:, None, None] * eye[None]]
        )
        right = jnp.where(keep, moments, 0)
        right = jnp.concatenate([right, jnp.tile(moments, (len(strengths), 1))])
        solved = losses(jnp.linalg.solve(left, right[..., None])[..., 0])
        train, new = solved[:features].T
        shrunk = jax.vmap(partial(lasso, gram, moments))(strengths)
        paths = (solved[features:].T, losses(shrunk).T)
        return jnp.stack([train, new, *(jnp.interp(train, *path) for path in paths)])

    keys = setting.keys(setting.size(100, 40))
    effects = {}
    with setting.figure(
        columns=2,
        title="Shrinking many small weights beats dropping; with few, only L1 does",
        caption="Error on new rows at equal training error; dotted: where the largest "
        f"{kept} coefficients are kept.",
        alt="Two line charts of the mean squared error on new rows against that on "
        "training rows, for 50 and for 5 weights that are not zero: dropping features, "
        "L2 and L1.",
        sharey=True,
    ) as panels:
        for axes, num_nonzero, words in zip(
            panels, (50, 5), ("many small weights", "few large weights"), strict=True
        ):
            found = errors(jax.random.clone(keys), num_nonzero)
            train, *new = np.asarray(found).transpose(1, 2, 0)
            for label, values in zip(("dropping", "L2", "L1"), new, strict=True):
                plots.band(axes, train.mean(1), values, label=label)
            axes.axvline(train[kept - 1].mean(), color="0.3", ls=":")
            axes.set(xlabel="mean squared error on training rows")
            axes.set_title(f"{words} ({num_nonzero} of {features})", fontsize=10)
            for label, values in zip(("L2", "L1"), new[1:], strict=True):
                effects[f"{label}, {words}"] = (new[0] - values)[kept - 1]
        panels[0].set(ylabel="on new rows")
        panels[1].legend()
    return Finding(
        f"Dropping all but {kept} of {features} features is blunter than shrinking",
        "4.5; D2L 3.7",
        "MSE on new rows, dropping minus shrinking, at equal training error",
        0.05,
        effects,
    )


def decay_helps(setting: Setting) -> Finding:
    """Claim 9: the book's 200 weights and 20 rows, lambda 0 and 3; larger weights."""
    runs, book = setting.size(32, 12), linear_problem.BOOK
    larger = replace(book, true_weight=10 * book.true_weight)
    lambdas = np.append(np.logspace(-3, 2, setting.size(24, 12)), [0.0, 3.0])
    seed = setting.seed + 9 * runs  # of `grid_problems`
    with setting.figure(
        columns=3,
        title="Decay lowers the test error to that of w = 0; only soft thresholds make "
        "weights zero",
        caption="Left and middle: errors against lambda, with the book's true weights "
        "and with ten times larger ones; dotted: the book's lambda of 3. Right: share "
        "of weights that are exactly zero.",
        alt="Two line charts of training and test error against lambda on logarithmic "
        "axes, with a dotted line at 3, and a bar chart of the share of weights that "
        "are exactly zero after L2, L1 by its gradient, and L1 by soft thresholds.",
    ) as panels:
        grids = []
        for axes, config in zip(panels, (book, larger), strict=False):
            problems = linear_problem.grid_problems(seed, runs, config)
            program = linear_problem.grid_program("scratch", config)
            grid = program(problems, jnp.asarray(lambdas, jnp.float32))
            grids.append(jax.device_get(grid))
            for split in ("train", "test"):
                values = grids[-1][f"{split}_loss"][:-2]
                plots.quantiles(axes, lambdas[:-2], values, label=split)
            axes.axvline(3, color="0.3", ls=":")
            axes.set(xscale="log", yscale="log", xlabel="lambda", ylim=(1e-4, 1e3))
            axes.set_title(f"true weights {config.true_weight:g}", fontsize=10)
        panels[0].set_ylabel("halved squared error")
        panels[0].legend()
        draw_zeros(panels[2], linear_problem.grid_problems(seed, runs, book))
    none, three = ({k: v[i] for k, v in grids[0].items()} for i in (-2, -1))
    return Finding(
        "Lambda 3 raises the training error and lowers the test error",
        "4.5; D2L 3.7",
        "factors of ten",
        0.3,
        {
            "lower test error": np.log10(none["test_loss"] / three["test_loss"]),
            "higher training error": np.log10(three["train_loss"] / none["train_loss"]),
        },
    )


def draw_zeros(axes: plots.Axes, problems: linear_problem.Problem) -> None:
    """Draw how many weights each penalty makes exactly zero."""
    lambd, rate = 0.1, linear_problem.BOOK.learning_rate
    data, params = problems.train_data, problems.params

    @partial(jax.jit, static_argnames="step")
    @partial(jax.vmap, in_axes=(None, 0, 0))
    def zeros(step: Callable[[Array], Array], params: PyTree, data: PyTree) -> Array:
        def one(w: Array, _: None) -> tuple[Array, None]:
            return step(w, *data), None

        w, _ = jax.lax.scan(one, params["kernel"], length=4000)
        return (w == 0).mean()

    def slope(w: Array, x: Array, y: Array) -> Array:
        return x.T @ (x @ w - y) / len(x)

    steps = {
        "L2": lambda w, x, y: w - rate * (slope(w, x, y) + lambd * w),
        "L1, gradient": lambda w, x, y: (
            w - rate * (slope(w, x, y) + lambd * jax.grad(l1_penalty)(w))
        ),
        "L1, soft": lambda w, x, y: soft_threshold(
            w - rate * slope(w, x, y), rate * lambd
        ),
    }
    shares = [100 * zeros(step, params, data).mean() for step in steps.values()]
    axes.bar(list(steps), shares, color=plots.COLOURS[:3])
    axes.set(ylabel="weights that are zero (%)", ylim=(0, 100))
    axes.tick_params(axis="x", labelsize=8)

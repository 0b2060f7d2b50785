"""Hyperparameters for house prices, chosen by cross-validation."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ch4jax.house_prices import HousePrices
from ch4jax.house_prices.models import Setting
from ch4jax.training import folds
from experiments.common import plots
from experiments.common.console import say
from experiments.common.run_folder import RunFolder
from experiments.house_prices import members, outcome
from experiments.house_prices.members import CrossValidation

# Peak learning rates, decays and dropout rates.
GRIDS = {
    "linear": ((0.03, 0.1, 0.3), (0.02, 0.2), (0.0, 0.1, 0.2)),
    "mlp": ((0.005, 0.01, 0.02), (0.5, 1.5), (0.2, 0.3, 0.4)),
}
BARS = {"marker": "o", "markersize": 3, "capsize": 2, "lw": 1}


def run(
    data: HousePrices, validation: CrossValidation, folder: RunFolder
) -> dict[str, Any]:
    """Cross-validate every setting of each architecture, and show the best.

    The choice is by the mean over the folds. Its error is a little too small, as it is
    the smallest of many.
    """
    log_prices = members.log_of_prices(data)
    rows = len(log_prices)
    in_training = folds.k_fold(rows, validation.folds, seed=validation.seed)
    settings = {
        name: [Setting(*values) for values in itertools.product(*grid)]
        for name, grid in GRIDS.items()
    }
    predictions, _ = members.train(settings, data, in_training, validation)
    results, chosen, out_of_fold = [], {}, {}
    for name, predicted in predictions.items():
        errors = np.square(predicted[..., :rows] - log_prices)
        left_out = ~in_training[None, :, None, :]
        by_fold = np.sqrt(errors.mean(axis=-1, where=left_out))
        entries = [
            {
                "model": name,
                **setting._asdict(),
                "log_rmse": scores.mean(),
                # Over the folds: the seeds of a fold share its rows.
                "standard_error": scores.mean(axis=1).std(ddof=1) / len(scores) ** 0.5,
                "spread_over_seeds": scores.mean(axis=0).std(ddof=1)
                if validation.seeds > 1
                else None,
            }
            for setting, scores in zip(settings[name], by_fold, strict=True)
        ]
        first = int(np.argmin([entry["log_rmse"] for entry in entries]))
        chosen[name] = entries[first]
        out_of_fold[name] = members.held_out(predicted[first], in_training)
        results += entries
        folder.table(
            [name, "decay", "dropout", "log RMSE"],
            [
                [
                    f"learning rate {entry['learning_rate']:g}",
                    f"{entry['weight_decay']:g}",
                    f"{entry['dropout']:g}",
                    f"{entry['log_rmse']:.4f} ± {entry['standard_error']:.4f}",
                ]
                for entry in sorted(entries, key=lambda entry: entry["log_rmse"])
            ],
        )
    draw_settings(results, folder)
    winner = min(chosen, key=lambda name: chosen[name]["log_rmse"])
    entry = chosen[winner]
    say(
        f"chosen: {winner}, learning rate {entry['learning_rate']:g}, decay "
        f"{entry['weight_decay']:g}, dropout {entry['dropout']:g}: log RMSE "
        f"{entry['log_rmse']:.4f} ± {entry['standard_error']:.4f} over the folds"
    )
    summary = outcome.show(data, out_of_fold[winner], "search", folder)
    return {"chosen": chosen, "winner": winner, "results": results, **summary}


def draw_settings(results: Sequence[Mapping[str, Any]], folder: RunFolder) -> None:
    """Draw the error against the learning rate, a line for each decay and dropout."""
    with folder.figure(
        "search.png",
        1,
        2,
        size=(8.5, 4.6),
        title="cross-validated log RMSE; bars: standard error over the folds",
        caption="Where the best settings are; a bar is a standard error over the "
        "folds.",
        alt="Two line charts, linear model and perceptron, of the cross-validated log "
        "RMSE against the peak learning rate, a line for each pair of weight decay and "
        "dropout rate.",
        sharey=True,
    ) as panels:
        for axes, (name, (rates, *others)) in zip(panels, GRIDS.items(), strict=True):
            pairs = list(itertools.product(*others))
            of_model = [entry for entry in results if entry["model"] == name]
            for line, (decay, drop) in enumerate(pairs):
                entries = of_model[line :: len(pairs)]  # one for each rate
                axes.errorbar(
                    [rate * 1.04 ** (line - 2.5) for rate in rates],  # side by side
                    [entry["log_rmse"] for entry in entries],
                    [entry["standard_error"] for entry in entries],
                    color=plots.COLOURS[line],
                    label=f"decay {decay:g}, dropout {drop:g}",
                    **BARS,
                )
            axes.set(xscale="log", xlabel="peak learning rate")
            axes.set_title(name, fontsize=10)
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
            axes.legend(ncols=2, fontsize=8, **below)
            axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
            axes.set_xticks([], minor=True)
        panels[0].set_ylabel("log RMSE")

"""Hyperparameters for house prices, chosen by cross-validation."""

import itertools
from typing import Any

import jax
import numpy as np

from ch4jax.training import folds
from experiments.common import plots
from experiments.common.console import Report
from experiments.house_prices import members as house_members
from experiments.house_prices import outcome as house_outcome

# Peak learning rates, decays and rates of dropout.
GRIDS = {
    "linear": ((0.03, 0.1, 0.3), (0.02, 0.2), (0.0, 0.1, 0.2)),
    "mlp": ((0.005, 0.01, 0.02), (0.5, 1.5), (0.2, 0.3, 0.4)),
}


def search(config: Any, data: Any, report: Report) -> dict[str, Any]:
    """Cross-validate every setting of each architecture, and show the best.

    The choice is by the mean over the folds; its error, as that of the best of many,
    is a little too small.
    """
    log_prices = np.log(data.train["SalePrice"].to_numpy(float))
    rows = len(log_prices)
    in_training = folds.k_fold(rows, config.folds, seed=config.seed)
    x = house_members.encode(data, in_training)
    key = jax.random.key(config.seed)
    results, chosen, best_predictions = [], {}, {}
    for i, (name, model) in enumerate(house_members.ARCHITECTURES.items()):
        settings = list(itertools.product(*GRIDS[name]))
        predictions, seconds = house_members.train(
            model,
            settings,
            data,
            x,
            in_training,
            house_members.draw_keys(
                config, config.folds, key=jax.random.fold_in(key, i)
            ),
            epochs=config.epochs,
        )
        errors = np.square(predictions[..., :rows] - log_prices)
        left_out = ~in_training[None, :, None, :]
        of_fold = np.sqrt(errors.mean(axis=-1, where=left_out))
        entries = [
            {
                "model": name,
                "learning_rate": setting[0],
                "weight_decay": setting[1],
                "dropout": setting[2],
                "log_rmse": scores.mean(),
                # Over the folds: the seeds of a fold share its rows.
                "standard_error": scores.mean(axis=1).std(ddof=1) / len(scores) ** 0.5,
                "spread_over_seeds": house_outcome.spread(scores.mean(axis=0)),
            }
            for setting, scores in zip(settings, of_fold, strict=True)
        ]
        first = int(np.argmin([entry["log_rmse"] for entry in entries]))
        chosen[name] = entries[first]
        best_predictions[name] = house_members.held_out(predictions[first], in_training)
        results += entries
        report.say(f"{name}: {of_fold.size} models in {seconds:.0f} s, with compiling")
        show_search(name, entries, report)
    draw_search(results, report)
    winner = min(chosen, key=lambda name: chosen[name]["log_rmse"])
    entry = chosen[winner]
    report.say(
        f"chosen: {winner}, learning rate {entry['learning_rate']:g}, decay "
        f"{entry['weight_decay']:g}, dropout {entry['dropout']:g}: log RMSE "
        f"{entry['log_rmse']:.4f} ±{entry['standard_error']:.4f} over the folds"
    )
    summary = house_outcome.tell(data, best_predictions[winner], "search", report)
    return {"chosen": chosen, "winner": winner, "results": results, **summary}


def show_search(name: str, entries: list[dict[str, Any]], report: Report) -> None:
    """Print the settings of an architecture, best first."""
    report.table(
        [name, "decay", "dropout", "log RMSE", "standard error", "over seeds"],
        [
            [
                f"learning rate {entry['learning_rate']:g}",
                f"{entry['weight_decay']:g}",
                f"{entry['dropout']:g}",
                f"{entry['log_rmse']:.4f}",
                f"±{entry['standard_error']:.4f}",
                house_outcome.plus_minus(entry["spread_over_seeds"]),
            ]
            for entry in sorted(entries, key=lambda entry: entry["log_rmse"])
        ],
    )


def draw_search(results: list[dict[str, Any]], report: Report) -> None:
    """Draw the error against the learning rate, a line for each decay and dropout."""
    with plots.figure(
        report.folder / "search.png",
        1,
        2,
        size=(8.5, 4.6),
        title="cross-validated log RMSE; bars: standard error over the folds",
    ) as panels:
        for axes, name in zip(panels, GRIDS, strict=True):
            rates, decays, drops = GRIDS[name]
            for line, (decay, drop) in enumerate(itertools.product(decays, drops)):
                entries = [
                    entry
                    for entry in results
                    if (entry["model"], entry["weight_decay"], entry["dropout"])
                    == (name, decay, drop)
                ]
                axes.errorbar(
                    [rate * 1.04 ** (line - 2.5) for rate in rates],  # side by side
                    [entry["log_rmse"] for entry in entries],
                    [entry["standard_error"] for entry in entries],
                    marker="o",
                    markersize=3,
                    capsize=2,
                    lw=1,
                    color=plots.COLOURS[line],
                    label=f"decay {decay:g}, dropout {drop:g}",
                )
            axes.set(xscale="log", xlabel="peak learning rate")
            axes.set_title(name, fontsize=10)
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8
            )
            axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
            axes.set_xticks([], minor=True)
        panels[0].set_ylabel("log RMSE")
        panels[0].sharey(panels[1])

"""The main numbers of each experiment, from its summary, for the page of `report`."""

from collections.abc import Callable, Mapping
from statistics import mean
from typing import Any

from experiments.dropout import describe
from experiments.report.speed import benchmark, compare, end_to_end, growth, profile
from experiments.report.tables import (
    Numbers,
    Summary,
    Table,
    facts,
    named,
    plain,
    records,
    shown,
)


def numbers(experiment: str, summary: Summary) -> Numbers:
    """Return the main numbers; of a summary in another form, all that are plain."""
    try:
        return NUMBERS[experiment](summary)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        known = {name: v for name, v in summary.items() if name != "experiment"}
        return Numbers("", plain(known))


def backprop(summary: Summary) -> Numbers:
    """Hold gradients by hand against those of JAX."""
    quantities = {k: v for k, v in summary["quantities"].items() if "difference" in v}
    largest = max(entry["difference"] for entry in quantities.values())
    memory = {k: v for k, v in summary["memory"].items() if isinstance(v, dict)}
    memory["by hand"] = {"intermediates": summary["memory"]["by hand"]}
    return Numbers(
        f"By hand and jax.grad differ by at most {shown(largest)} of the norm.",
        [
            named(
                "Gradients by hand against jax.grad, in float64",
                quantities,
                ["norm", "gradient_norm", "difference"],
            ),
            named(
                "Bytes kept for the backward pass",
                memory,
                ["intermediates", "matrix_products", "compiled"],
            ),
        ],
    )


def blocks(summary: Summary) -> Numbers:
    """Show that three ways to write a perceptron are one."""
    same, loop = summary["my_sequential_is_sequential"], summary["halvings"]
    return Numbers(
        f"MySequential and nn.Sequential {'agree' if same else 'differ'}; the loop "
        f"keeps values at {shown(loop['largest_value'])} or below.",
        [
            facts(
                "Blocks",
                {
                    "MySequential is nn.Sequential": same,
                    "so is MLP with its arrays": summary[
                        "mlp_is_sequential_with_its_parameters"
                    ],
                    "FixedHiddenMLP": summary["fixed_hidden"],
                    "chimera": summary["chimera"],
                    "gradient at a factor of 0.0001": loop["norm_at_1e-4"],
                    "gradient at a factor of 10,000": loop["norm_at_1e4"],
                },
            )
        ],
    )


def dropout(summary: Summary) -> Numbers:
    """Set the networks with and without dropout side by side."""
    metrics = ["train_accuracy", "test_accuracy", "gap", "train_loss"]
    entries = [
        {
            "network": f"{entry['impl']}, {describe(entry['rates'])}",
            **{name: _spread(entry, name) for name in metrics},
            "epoch_seconds": entry["epoch_seconds"],
        }
        for entry in summary["results"]
    ]
    said = ", ".join(f"{e['test_accuracy']} ({e['network']})" for e in entries)
    fields = ["network", *metrics, "epoch_seconds"]
    return Numbers(
        f"Test accuracy: {said}.", [records("The finished networks", entries, fields)]
    )


def house_prices(summary: Summary) -> Numbers:
    """Tell how far predictions are off, out of fold."""
    score = _spread(
        {
            "": summary["out_of_fold_log_rmse"],
            "_std": summary["out_of_fold_log_rmse_standard_error"],
        },
        "",
    )
    by_fold = summary.get("log_rmse_by_fold") or {
        "validation": summary.get("valid_log_rmse_over_folds") or []
    }
    rows = [
        [f"fold {i + 1}", *row]
        for i, row in enumerate(zip(*by_fold.values(), strict=True))
    ]
    return Numbers(
        f"Log RMSE {score} over all rows, each predicted by models that never saw it.",
        [
            facts(
                "Log RMSE",
                {
                    f"recipe {summary['recipe']}, out of fold": score,
                    "validation, mean of the folds": summary.get("valid_log_rmse"),
                    "training, mean of the folds": summary.get("train_log_rmse"),
                },
            ),
            Table("Log RMSE by fold", ["", *by_fold], rows),
        ],
    )


def initialization(summary: Summary) -> Numbers:
    """Set what fails and what helps side by side."""
    trained = [
        {
            **entry,
            "test_accuracy": mean(scores) if scores else None,
            "worst_seed": min(scores) if scores else None,
        }
        for entry in summary["remedies"]
        for scores in [entry.get("test_accuracy")]
    ]
    done = [entry for entry in trained if not entry["diverged"]]
    low, high = (f(done, key=lambda entry: entry["test_accuracy"]) for f in (min, max))
    return Numbers(
        f"Test accuracy from {shown(low['test_accuracy'])} ({low['recipe']}) to "
        f"{shown(high['test_accuracy'])} ({high['recipe']}).",
        [
            records(
                "Deep networks, trained alike",
                trained,
                ["recipe", "test_accuracy", "worst_seed", "train_loss", "diverged"],
            ),
            named(
                "The units of one hidden layer",
                summary["symmetry"],
                ["largest_difference", "test_accuracy"],
            ),
        ],
    )


def layers(summary: Summary) -> Numbers:
    """Tell whether MyLinear learns."""
    ways = ("parameters as an argument", "gradient stopped, as .data does")
    columns = [
        summary[key] for key in ("first_losses", "last_losses", "largest_changes")
    ]
    learnt, stopped = map(shown, summary["last_losses"])
    return Numbers(
        f"The loss ends at {learnt} where MyLinear learns, at {stopped} where its "
        "gradient is stopped.",
        [
            Table(
                "Training MyLinear(64, 8), CenteredLayer(), Dense(1)",
                ["MyLinear", "first loss", "last loss", "largest change of a weight"],
                list(zip(ways, *columns, strict=True)),
            )
        ],
    )


def parameters(summary: Summary) -> Numbers:
    """Show sharing and freezing."""
    moved = summary["moved"]
    rows = [
        [path, *(of[path] for of in moved.values())] for path in summary["parameters"]
    ]
    return Numbers(
        f"One layer used twice: {shown(summary['shared_count'])} entries, where two "
        f"copies have {shown(summary['untied_count'])}.",
        [
            named("Sharing a layer", summary["sharing"], ["in_both", "off"]),
            Table("Largest change, first layer frozen", ["path", *moved], rows),
        ],
    )


def storage(summary: Summary) -> Numbers:
    """Count what was lost."""
    flips, kills = summary["flips"], summary["kills"]
    wrong = flips.get("wrong numbers", 0)
    lost = sum(not kill["exact"] for kill in kills)
    return Numbers(
        f"{shown(sum(flips.values()))} bits flipped, {wrong} loaded as wrong numbers; "
        f"writers killed: {len(kills)}, saved steps lost: {lost}.",
        [
            facts(
                "Saving and loading",
                {
                    **{f"{k} came back": ok for k, ok in summary["came_back"].items()},
                    **{f"flips: {outcome}": count for outcome, count in flips.items()},
                    "seconds to save the perceptron": summary["seconds"]["save"],
                    "seconds to load it": summary["seconds"]["load"],
                },
            ),
            records("Killed writers", kills, ["saved", "restored", "exact"], 0),
        ],
    )


def weight_decay(summary: Summary) -> Numbers:
    """Show the book's runs, and the best lambda of each grid."""
    entries = summary["results"]
    scratch = [entry for entry in entries if entry["method"] == "scratch"]
    grids = {
        name: {
            "best_lambda": grid["lambdas"][best],
            "median_test_loss": grid["test_loss"][best],
            "seconds_to_compile": grid["seconds"]["compile"],
            "seconds_to_run": grid["seconds"]["run"],
        }
        for name, grid in summary["grids"].items()
        for best in [grid["test_loss"].index(min(grid["test_loss"]))]
    }
    return Numbers(
        "Test loss: "
        + ", ".join(
            f"{shown(e['test_loss'])} (lambda {shown(e['lambd'])})" for e in scratch
        )
        + ".",
        [
            records(
                "After the last epoch",
                entries,
                ["method", "lambd", "train_loss", "test_loss", "norm"],
            ),
            named("Grids of lambdas and seeds", grids, list(grids["scratch"])),
        ],
    )


def _spread(entry: Mapping[str, Any], name: str) -> str:
    deviation = entry.get(f"{name}_std")
    if deviation is None:
        return shown(entry[name])
    return f"{entry[name]:.4f} ± {deviation:.4f}"


NUMBERS: dict[str, Callable[[Summary], Numbers]] = {
    "backprop": backprop,
    "benchmark": benchmark,
    "blocks": blocks,
    "compare": compare,
    "dropout": dropout,
    "end_to_end": end_to_end,
    "growth": growth,
    "house_prices": house_prices,
    "initialization": initialization,
    "layers": layers,
    "parameters": parameters,
    "profile": profile,
    "storage": storage,
    "weight_decay": weight_decay,
}

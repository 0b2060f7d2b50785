"""What every recipe of the house prices ends with: errors, worst houses, submission."""

from typing import Any

import numpy as np

from ch4jax.house_prices import write_submission
from experiments.common import plots
from experiments.common.console import Report, count
from experiments.common.errors import Failed


def spread(values: Any) -> float | None:
    """Return the deviation over the last axis, or None: one seed has none."""
    return float(values.std(ddof=1)) if values.size > 1 else None


def plus_minus(deviation: float | None) -> str:
    """Return a deviation as text."""
    return "" if deviation is None else f"±{deviation:.4f}"


def tell(data: Any, out_of_fold: Any, name: str, report: Report) -> dict[str, Any]:
    """Print and draw predictions that no member made of a row it was trained on.

    Args:
      data: the tables.
      out_of_fold: log prices, shape (seeds, rows), each row by the fold that left it
        out.
      name: of the recipe, for the figure.
      report: where to.

    Returns:
      For the summary: log-RMSE over all rows of the mean over seeds in log space, its
      standard error over the rows, the spread of each row over seeds, the worst rows.
    """
    prices = data.train["SalePrice"].to_numpy(float)
    mean = out_of_fold.mean(axis=0)
    errors = mean - np.log(prices)
    score = float(np.sqrt(np.square(errors).mean()))
    # The root bends the standard error of the mean square by 1 / (2 * root).
    deviation = np.square(errors).std(ddof=1) / np.sqrt(errors.size)
    several = len(out_of_fold) > 1
    worst = np.argsort(-np.abs(errors))[:8]
    columns = ["Neighborhood", "SaleCondition", "OverallQual", "GrLivArea"]
    report.table(
        [
            "Id",
            "neighbourhood",
            "sale",
            "quality",
            "area",
            "true $",
            "predicted $",
            "log error",
        ],
        [
            [
                str(data.train["Id"].iloc[row]),
                *(str(data.train[column].iloc[row]) for column in columns),
                f"{prices[row]:,.0f}",
                f"{np.exp(mean[row]):,.0f}",
                f"{errors[row]:+.2f}",
            ]
            for row in worst
        ],
        title="worst predicted houses, out of fold",
    )
    without = np.delete(errors, worst[:2])
    report.say(
        f"out of fold, {count(len(out_of_fold), 'seed')} averaged in log space: "
        f"log RMSE {score:.4f} ±{deviation / (2 * score):.4f} (standard error over the "
        f"rows); {np.sqrt(np.square(without).mean()):.4f} without the two worst"
    )
    draw(prices, np.exp(mean), worst, f"recipe {name}: log RMSE {score:.4f}", report)
    return {
        "out_of_fold_log_rmse": score,
        "out_of_fold_log_rmse_standard_error": deviation / (2 * score),
        "spread_over_seeds": out_of_fold.std(axis=0, ddof=1).mean()
        if several
        else None,
        "worst": [
            {"Id": data.train["Id"].iloc[row], "log_error": errors[row]}
            for row in worst
        ],
    }


def draw(prices: Any, predictions: Any, worst: Any, title: str, report: Report) -> None:
    """Draw predicted against true prices, and name the worst."""
    with plots.figure(
        report.folder / "out_of_fold.png", size=(8.5, 5.0), title=title
    ) as axes:
        others = np.setdiff1d(np.arange(prices.size), worst)
        axes.scatter(prices[others], predictions[others], s=6, alpha=0.5, lw=0)
        colour = plots.COLOURS[1]
        axes.scatter(
            prices[worst], predictions[worst], s=24, color=colour, label="worst eight"
        )
        ends = [prices.min() / 1.1, prices.max() * 1.1]
        axes.plot(ends, ends, color="black", lw=0.8, label="predicted = true")
        axes.set(
            xlabel="true price ($)",
            ylabel="predicted price ($), out of fold",
            xscale="log",
            yscale="log",
        )
        ticks = [50_000, 100_000, 200_000, 400_000, 800_000]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
            axis.set_ticks([], minor=True)
        axes.legend()


def submit(data: Any, prices: Any, report: Report) -> None:
    """Write `submission.csv` into the run folder.

    Raises:
      Failed: if a price cannot be submitted.
    """
    try:
        write_submission(
            report.folder / "submission.csv", data.test["Id"].to_numpy(), prices
        )
    except ValueError as error:
        raise Failed(f"submission.csv was not written: {error}") from None
    report.say(f"submission.csv: {len(prices):,} predicted prices")

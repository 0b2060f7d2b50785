"""What every recipe of the house prices ends with: errors, worst houses, submission."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from ch4jax import statistics
from ch4jax.house_prices import HousePrices, write_submission
from ch4jax.storage import atomic
from experiments.common import plots
from experiments.common.console import count, say
from experiments.common.errors import Failed
from experiments.common.run_folder import RunFolder

DECIDING = (524, 1299)  # Ids of two large houses, sold unfinished for little
COVERAGE = 0.9
COMPETITION = "house-prices-advanced-regression-techniques"


def deciding(data: HousePrices) -> Bool[np.ndarray, " rows"]:
    """Mark the two sales that decide much of any score."""
    return data.train["Id"].isin(DECIDING).to_numpy()


def plus_minus(values: Float[np.ndarray, " values"]) -> str:
    """Return the mean and its standard error as text; one value has no error."""
    mean = f"{values.mean():.4f}"
    if values.size == 1:
        return mean
    return f"{mean} ± {values.std(ddof=1) / values.size**0.5:.4f}"


def show(
    data: HousePrices,
    out_of_fold: Float[np.ndarray, "seeds rows"],
    recipe: str,
    folder: RunFolder,
) -> dict[str, Any]:
    """Print and draw predictions that no member made of a row it was trained on.

    Args:
      data: the tables.
      out_of_fold: log prices, each row by the fold that left it out.
      recipe: for the figure.
      folder: of the run.

    Returns:
      For the summary: log-RMSE over all rows of the mean over seeds in log space, its
      standard error over the rows, the same without the sales that decide, the error
      in dollars, the spread of each row over seeds, the worst rows.
    """
    prices = data.train["SalePrice"].to_numpy(float)
    mean = out_of_fold.mean(axis=0)
    errors = mean - np.log(prices)
    score = float(np.sqrt(np.square(errors).mean()))
    # The root scales the standard error of the mean square by 1 / (2 * root).
    deviation = np.square(errors).std(ddof=1) / np.sqrt(errors.size) / (2 * score)
    worst = np.argsort(-np.abs(errors))[:8]
    columns = ["Id", "Neighborhood", "SaleCondition", "OverallQual", "GrLivArea"]
    houses = data.train.iloc[worst][columns].astype(str).to_numpy().tolist()
    numbers = zip(prices[worst], np.exp(mean[worst]), errors[worst], strict=True)
    heads = ["Id", "neighbourhood", "sale", "quality", "area"]
    folder.table(
        [*heads, "true $", "predicted $", "log error"],
        [
            [*house, f"{price:,.0f}", f"{predicted:,.0f}", f"{error:+.2f}"]
            for house, (price, predicted, error) in zip(houses, numbers, strict=True)
        ],
        title="worst predicted houses, out of fold",
        num_texts=3,
    )
    usual = float(np.sqrt(np.square(errors[~deciding(data)]).mean()))
    dollars = float(np.sqrt(np.square(np.exp(mean) - prices).mean()))
    say(
        f"out of fold, {count(len(out_of_fold), 'seed')} averaged in log space: "
        f"log RMSE {score:.4f} ± {deviation:.4f} (standard error over the rows); "
        f"{usual:.4f} without the Ids {' and '.join(map(str, DECIDING))}; "
        f"RMSE ${dollars:,.0f}"
    )
    ids = data.train["Id"].to_numpy()[worst]
    title = f"recipe {recipe}: log RMSE {score:.4f}, and the Ids of the worst houses"
    draw(prices, np.exp(mean), dict(zip(worst, ids, strict=True)), title, folder)
    spread = out_of_fold.std(axis=0, ddof=1).mean() if len(out_of_fold) > 1 else None
    return {
        "out_of_fold_log_rmse": score,
        "out_of_fold_log_rmse_standard_error": deviation,
        "out_of_fold_log_rmse_usual": usual,
        "out_of_fold_dollars": dollars,
        "spread_over_seeds": spread,
        "worst": [
            {"Id": i, "log_error": error}
            for i, error in zip(ids, errors[worst], strict=True)
        ],
    }


def draw(
    prices: Float[np.ndarray, " rows"],
    predictions: Float[np.ndarray, " rows"],
    worst: Mapping[int, int],
    title: str,
    folder: RunFolder,
) -> None:
    """Draw predicted against true prices; name the worst, rows with their Ids."""
    with folder.figure(
        "out_of_fold.png",
        size=(8.5, 5.0),
        title=title,
        caption="Every house, predicted by models that never saw it.",
        alt="Scatter chart of the predicted against the true price in dollars, both "
        "logarithmic, with the line where they are equal and the Ids of the "
        "eight worst predicted houses.",
    ) as axes:
        marked = list(worst)
        others = np.setdiff1d(np.arange(prices.size), marked)
        axes.scatter(prices[others], predictions[others], s=6, alpha=0.5, lw=0)
        mark = {"color": plots.COLOURS[1], "label": "worst eight"}
        axes.scatter(prices[marked], predictions[marked], s=24, **mark)
        sides = ((6, 0, "left", "center"), (0, -6, "center", "top"))
        sides = (*sides, (-6, 0, "right", "center"))  # neighbours on different sides
        for i, row in enumerate(sorted(worst, key=lambda row: predictions[row])):
            *offset, ha, va = sides[i % 3]
            axes.annotate(
                str(worst[row]),
                (prices[row], predictions[row]),
                offset,
                textcoords="offset points",
                fontsize=8,
                ha=ha,
                va=va,
            )
        ends = [prices.min() / 1.1, prices.max() * 1.1]
        axes.plot(ends, ends, color="black", lw=0.8, label="predicted = true")
        axes.set(xlabel="true price ($)", ylabel="predicted price ($), out of fold")
        axes.set(xscale="log", yscale="log")
        ticks = [50_000, 100_000, 200_000, 400_000, 800_000]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
            axis.set_ticks([], minor=True)
        axes.legend()


def submit(
    data: HousePrices,
    prices: Float[np.ndarray, " test_rows"],
    errors: Float[np.ndarray, " rows"],
    in_training: Bool[np.ndarray, "folds rows"],
    folder: RunFolder,
) -> None:
    """Write `submission.csv` and `intervals.csv` into the run folder.

    Args:
      data: the tables.
      prices: predicted, of the test rows.
      errors: of the log prices of the training rows, out of fold.
      in_training: the rows that each fold trained on.
      folder: of the run.

    Raises:
      Failed: if a price cannot be submitted.
    """
    path, ids = folder.path / "submission.csv", data.test["Id"].to_numpy()
    try:
        write_submission(path, ids, prices)
    except ValueError as error:
        raise Failed(f"submission.csv was not written: {error}") from error
    say(f"submission.csv: {len(prices):,} predicted prices; to submit it:")
    say(f"  kaggle competitions submit -c {COMPETITION} -f {path} -m ch4jax")
    factor = np.exp(statistics.conformal_radius(errors, COVERAGE))
    columns = {"Id": ids, "SalePrice": prices}
    columns |= {"Low": prices / factor, "High": prices * factor}
    with atomic.writing(folder.path / "intervals.csv") as part:
        pd.DataFrame(columns).round(2).to_csv(part, index=False)
    say(
        f"intervals.csv: a factor of {factor:.3f} up and down, for {COVERAGE:.0%}; it "
        f"covers {coverage(errors, in_training):.1%} of the prices on held-out folds"
    )


def coverage(
    errors: Float[np.ndarray, " rows"], in_training: Bool[np.ndarray, "folds rows"]
) -> float:
    """Return how many rows lie within the radius that the other folds give."""
    covered = np.zeros(errors.size, bool)
    for own in in_training:
        radius = statistics.conformal_radius(errors[own], COVERAGE)
        covered[~own] = np.abs(errors[~own]) <= radius
    return float(covered.mean())

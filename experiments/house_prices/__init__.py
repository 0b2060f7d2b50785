"""House prices from the tables to submission.csv (D2L 5.7).

Without flags: the book's recipe, a linear model on raw prices, with 5 folds trained at
once. `--recipe best` trains perceptrons on log prices; each fold chooses their
hyperparameters, and fits all else, on its own rows; `--recipe search` chooses from
more. Every ± is one standard error, over the seeds, the folds or the houses.
"""

from dataclasses import dataclass
from typing import Literal

from ch4jax import house_prices
from ch4jax.data import hub
from ch4jax.errors import DataError
from ch4jax.house_prices import Setting
from experiments.common import cli
from experiments.common.console import console, say
from experiments.common.errors import UsageError
from experiments.common.run_folder import RunFolder
from experiments.house_prices import book, nested
from experiments.house_prices.members import CrossValidation


@dataclass(frozen=True)
class Config(cli.DeviceFlags):
    """Flags; the defaults are the book's. `--devices` share the members of a fold."""

    recipe: Literal["book", "search", "best", "seed"] = "book"
    """The book's, the best of this package, or the same with a wider search; seed is
    the old name of book."""
    data: cli.Source = "auto"
    """shipped, hub (downloads), a folder or zip with Kaggle's tables, or auto:
    shipped, but on Kaggle's machines their input folder."""
    folds: int = 5
    """Of the cross-validation; the book's are not shuffled, the others are, by SEED."""
    repeats: cli.Count = 1
    """How many times search and best shuffle the rows and cut them into folds."""
    seeds: cli.OptionalCount = None
    """Members for each fold; if not given, 10 for book and 8 for search and best."""
    epochs: cli.OptionalCount = None
    """Passes over the rows; if not given, 100 for book, 40 for search and best."""
    learning_rate: cli.OptionalPositive = None
    """Of Adam, in the book's recipe; 5 if not given."""
    weight_decay: cli.OptionalFrom0 = None
    """In the book's recipe; 0 if not given."""
    batch_size: cli.OptionalCount = None
    """Rows in a batch, in the book's recipe; 64 if not given."""

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        if self.recipe == "seed":
            object.__setattr__(self, "recipe", "book")
        if self.folds < 2:
            raise UsageError(f"--folds must be at least 2, got {self.folds}")
        if self.recipe == "book":
            if self.repeats > 1:
                raise UsageError(
                    f"--repeats is for --recipe best and search, got {self.repeats}"
                )
            return
        for flag, value in (
            ("--learning-rate", self.learning_rate),
            ("--weight-decay", self.weight_decay),
            ("--batch-size", self.batch_size),
        ):
            if value is not None:
                raise UsageError(f"{flag} is for --recipe book, got {self.recipe}")


def resolve(config: Config, rows: int) -> CrossValidation:
    """Return the flags, or else what suits the recipe.

    Raises:
      UsageError: if a flag does not fit the rows with prices, or the devices.
      DataError: if an outer fold has too few rows for its inner folds.
    """
    for flag, value in (("--folds", config.folds), ("--batch-size", config.batch_size)):
        if value is not None and value > rows:
            raise UsageError(
                f"{flag} must be at most the {rows:,} rows with prices, got {value}"
            )
    smallest = rows - -(-rows // config.folds)
    if config.recipe != "book" and smallest < nested.INNER_FOLDS:
        raise DataError(
            f"{rows} rows with prices in {config.folds} folds leave {smallest} to "
            f"train on; {nested.INNER_FOLDS} inner folds need as many"
        )
    usual = (10, 100, 64) if config.recipe == "book" else (8, 40, 128)
    given = (config.seeds, config.epochs, config.batch_size)
    seeds, epochs, batch_size = (a or b for a, b in zip(given, usual, strict=True))
    if seeds % (config.devices or 1):
        raise UsageError(
            f"--seeds must be a multiple of the {config.devices} --devices, got {seeds}"
        )
    sizes = (config.folds, config.repeats, seeds, epochs, batch_size)
    return CrossValidation(config.seed, *sizes, config.mesh())


def run(config: Config) -> None:
    """Read the tables, show them, and follow the recipe."""
    with console.status("reading the tables"):
        if config.data == "hub":
            hub.download_all()
        data = house_prices.read(config.data)
    validation = resolve(config, len(data.train))
    setting = Setting(config.learning_rate or 5.0, config.weight_decay or 0.0)
    resolved = {"seeds": validation.seeds, "epochs": validation.epochs}
    if config.recipe == "book":
        resolved |= {"batch_size": validation.batch_size, **setting._asdict()}
    folder = RunFolder.create("house_prices", config, resolved)
    say(f"data: {data.source}")
    say(f"train {data.train.shape}, test {data.test.shape}")
    say(f"{data.train.iloc[:4, [0, 1, 2, 3, -3, -2, -1]]}\n")
    if config.recipe == "book":
        summary = book.run(data, validation, setting, folder)
    else:
        summary = nested.run(data, validation, config.recipe, folder)
    score = summary["out_of_fold_log_rmse"]
    error = summary["out_of_fold_log_rmse_standard_error"]
    folder.finish(
        {
            "recipe": config.recipe,
            "data": data.source,
            "seconds": {"total": folder.seconds()},
            **summary,
        },
        headline=f"Log RMSE {score:.4f} ± {error:.4f} over all rows, each predicted "
        "by models that never saw it.",
    )

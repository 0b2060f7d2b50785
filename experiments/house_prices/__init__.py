"""House prices from the tables to submission.csv (D2L 5.7).

Without flags: the book's recipe, a linear model on raw prices, with 5 folds trained at
once. `--recipe search` tries hyperparameters, `--recipe best` trains an ensemble on
log prices in which nothing is fitted outside its fold.
"""

from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

from ch4jax import house_prices
from experiments.common import cli
from experiments.common.console import Report
from experiments.common.errors import UsageError
from experiments.house_prices import best as house_best
from experiments.house_prices import book as house_seed
from experiments.house_prices import search as house_search


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags; the defaults are the book's."""

    recipe: Literal["seed", "search", "best"] = "seed"
    """The book's, a search over hyperparameters, or the best of this package."""
    data: str = "auto"
    """shipped, hub (downloads), a folder or zip with Kaggle's tables, or auto:
    shipped, but on Kaggle's machines their input folder."""
    folds: int = 5
    """Of the cross-validation; the book's are not shuffled, the others are, by SEED."""
    seeds: cli.OptionalInt = None
    """Members for each fold; if not given, 10 for seed and 2 for search and best."""
    epochs: cli.OptionalInt = None
    """Passes over the rows; if not given, 100 for seed, 40 for search and best."""
    learning_rate: cli.OptionalFloat = None
    """Of Adam, in the book's recipe; 5 if not given."""
    weight_decay: cli.OptionalFloat = None
    """In the book's recipe; 0 if not given."""
    batch_size: cli.OptionalInt = None
    """Rows in a batch, in the book's recipe; 64 if not given."""
    devices: cli.OptionalInt = None
    """Devices that share the members of each fold; one if not given."""

    @property
    def num_seeds(self) -> int:
        """Members for each fold."""
        return self.seeds or (10 if self.recipe == "seed" else 2)

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        if self.folds < 2:
            raise UsageError(f"--folds must be at least 2, got {self.folds}")
        cli.check_at_least_1("--seeds", self.seeds)
        cli.check_at_least_1("--epochs", self.epochs)
        cli.check_at_least_1("--devices", self.devices)
        if self.num_seeds % (self.devices or 1):
            raise UsageError(
                f"--seeds must be a multiple of the {self.devices} --devices, "
                f"got {self.num_seeds}"
            )
        cli.check_at_least_1("--batch-size", self.batch_size)
        cli.check_positive("--learning-rate", self.learning_rate)
        if self.weight_decay != 0:
            cli.check_positive("--weight-decay", self.weight_decay)
        for name in ("learning_rate", "weight_decay", "batch_size"):
            if self.recipe != "seed" and getattr(self, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} is for --recipe seed, got {self.recipe}")


def run(config: Config, report: Report) -> None:
    """Read the tables, show them, and follow the recipe."""
    on_terminal = report.console.is_terminal
    data = house_prices.read(
        config.data, progressbar=DownloadBar(report.console) if on_terminal else False
    )
    rows = len(data.train)
    if config.folds > rows:
        raise UsageError(
            f"--folds must be at most the {rows:,} rows with prices, got {config.folds}"
        )
    if config.batch_size is not None and config.batch_size > rows:
        raise UsageError(
            f"--batch-size must be at most the {rows:,} rows with prices, "
            f"got {config.batch_size}"
        )
    if config.recipe == "best":
        house_best.check_rows(rows, config.folds)
    report.begin(config)
    show_data(data, report)
    recipes = {
        "seed": house_seed.seed,
        "search": house_search.search,
        "best": house_best.best,
    }
    summary = recipes[config.recipe](config, data, report)
    report.finish(
        {
            "recipe": config.recipe,
            "data": data.source,
            "seconds": {"total": report.seconds()},
            **summary,
        }
    )


class DownloadBar:
    """What pooch shows the progress of a download on, drawn by rich.

    Attributes:
      total: bytes of the file; pooch sets it.
    """

    def __init__(self, console: Console) -> None:
        self.total = 0
        self._bar = Progress(console=console, transient=True)
        self._task = self._bar.add_task("downloading", total=None)

    def update(self, count: int) -> None:
        """Count bytes that have come."""
        self._bar.start()
        self._bar.update(self._task, total=self.total, advance=count)

    def reset(self) -> None:
        """Begin again at zero."""
        self._bar.reset(self._task)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def show_data(data: Any, report: Report) -> None:
    """Print the shapes, and a corner of the table."""
    report.say(f"data: {data.source}")
    report.say(f"train {data.train.shape}, test {data.test.shape}")
    report.say(f"{data.train.iloc[:4, [0, 1, 2, 3, -3, -2, -1]]}\n")


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()

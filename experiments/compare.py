"""PyTorch and JAX side by side: answers first, then times.

Each system goes through four levels: (1) the same parameters and rows give the same
outputs, loss and gradients; (2) one step of each optimiser; (3) a whole run with the
same parameters, batches and masks; (4) independent runs end alike, by an equivalence
test. Then the same training is timed on both sides, in turn. It needs PyTorch:
`pip install "ch4jax[torch]"`.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax

from ch4jax.data import fashion_mnist
from experiments import compare_figures
from experiments.common import cli
from experiments.common import roofline as floors
from experiments.common.console import Report
from experiments.common.errors import Failed, UsageError

Room = Literal["dropout", "weight_decay", "house_prices", "initialization", "blocks"]
ROOMS: tuple[Room, ...] = (
    "dropout",
    "weight_decay",
    "house_prices",
    "initialization",
    "blocks",
)
DRIFT = (
    "float32 drifts because training amplifies rounding, step after step; the same "
    "program in float64 stays at rounding, so what is amplified is no fault"
)


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the comparison."""

    keep_programs: ClassVar[bool] = False

    systems: cli.Positional[tuple[Room, ...]] = ROOMS
    """Rooms to compare; all if none is given."""
    quick: bool = False
    """Leave out level 4, and time one round."""
    rounds: int = 5
    """Rounds of timing that are counted, after one that warms up."""

    def __post_init__(self) -> None:
        """Check what does not depend on the data."""
        super().__post_init__()
        cli.check_at_least_1("--rounds", self.rounds)


def run(config: Config, report: Report) -> None:
    """Compare each system, print the tables, draw, and fail if a verdict does."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError('PyTorch is not installed: pip install "ch4jax[torch]"')
    import torch

    from experiments.pytorch import outcomes, race

    report.begin(config)
    report.say(
        f"PyTorch {torch.__version__} and JAX {jax.__version__} on "
        f"{jax.devices()[0].device_kind}; times with {floors.threads()} threads each"
    )
    torch.set_num_threads(1)  # for the answers; waiting threads would slow XLA's
    verdicts, courses, judged = [], {}, {}
    chosen = make(config.systems)
    with report.progress("systems", len(chosen)) as done:
        for system in chosen:
            key = jax.random.key(config.seed)
            found, courses[system.name] = numbers(system, key)
            found.append(outcomes.same_start(system, key))
            if system.outcome and not config.quick:
                runs = outcomes.independent_runs(system, system.outcome, key)
                judged[system.name] = (system.outcome, runs)
                found.append(outcomes.equivalence(system, system.outcome, runs))
            verdicts += found
            failed = sum(not verdict.passed for verdict in found)
            done(f"{system.name}, {len(found)} comparisons, {failed} failed")
            report.metrics(system=system.name, verdicts=[v._asdict() for v in found])
    show_verdicts(verdicts, report)
    report.say(DRIFT)
    failed = [verdict for verdict in verdicts if not verdict.passed]
    rows = []
    if jax.default_backend() != "cpu":
        report.say(
            "no times: PyTorch is on the CPU here; experiments.benchmark has them"
        )
    elif not failed:
        key = jax.random.key(config.seed)
        timed = [s for s in chosen if s.outcome]
        torch.set_num_threads(floors.threads())
        with report.progress("times", len(timed)) as done:
            for system in timed:
                rounds = 1 if config.quick else config.rounds
                rows += race.race(system, rounds=rounds, key=key)
                done(system.name)
        show_times(rows, report)
    compare_figures.draw(courses, judged, rows, report)
    content = summary(verdicts, courses, judged, rows)
    report.finish(content | {"seconds": report.seconds()})
    if failed:
        first = failed[0]
        raise Failed(
            f"{len(failed)} of {len(verdicts)} comparisons failed, the first: "
            f"{first.system}, level {first.level}, {first.what}: "
            f"{first.difference:.1e}, expected at most {first.tolerance:.1e}"
        )


def make(rooms: tuple[Room, ...]) -> list[Any]:
    """Return the systems of the rooms that are named, in the order of the book."""
    from experiments.pytorch import (
        deep_mlp,
        dropout,
        house_prices,
        modules,
        weight_decay,
    )

    images = fashion_mnist.load("mini")
    made: dict[Room, Any] = {
        "dropout": lambda: dropout.systems(images),
        "weight_decay": weight_decay.systems,
        "house_prices": house_prices.systems,
        "initialization": lambda: deep_mlp.systems(images),
        "blocks": lambda: modules.systems(images),
    }
    return [system for room in ROOMS if room in rooms for system in made[room]()]


def numbers(system: Any, key: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the verdicts of levels 1 to 3, and the course of the run in each dtype."""
    from experiments.pytorch import levels

    verdicts = []
    for dtype in ("float64", "float32"):
        verdicts += levels.same_numbers(system, dtype, key)
    verdicts += levels.honest_masks(system, key)
    for dtype in ("float64", "float32"):
        verdicts += levels.one_step(system, dtype, key)
    courses = {d: levels.whole_run(system, d, key) for d in ("float64", "float32")}
    verdicts.append(levels.every_row(system, key))
    verdicts += levels.whole_runs(system, key, courses["float64"])
    return verdicts, {dtype: c.differences for dtype, c in courses.items()}


def show_verdicts(verdicts: list[Any], report: Report) -> None:
    """Print one line for each comparison."""
    report.table(
        ["system", "level", "what", "difference", "at most", "verdict"],
        [
            [
                v.system,
                str(v.level),
                v.what,
                f"{v.difference:.1e}",
                f"{v.tolerance:.1e}",
                "equal" if v.passed else "FAILED",
            ]
            for v in verdicts
        ],
        title="answers",
    )


def show_times(rows: list[Any], report: Report) -> None:
    """Print seconds, and how many times as fast as PyTorch, eager, each row is."""
    report.table(
        ["system", "how", "compile (s)", "median (s)", "fastest", "slowest", "speed"],
        [
            [
                row.system,
                row.name,
                f"{row.compile:.2f}",
                *(f"{t:.4f}" for t in (row.median, row.fastest, row.slowest)),
                f"{row.ratio:.1f}x",
            ]
            for row in rows
        ],
        title="times of the same training, float32",
    )


def summary(
    verdicts: list[Any], courses: dict[str, Any], outcomes: dict[str, Any], rows: Any
) -> dict[str, Any]:
    """Return all that was found, for `summary.json`."""
    return {
        "verdicts": [
            v._asdict() | {"verdict": "equal" if v.passed else "failed"}
            for v in verdicts
        ],
        "courses": courses,
        "outcomes": {
            name: {"metric": outcome.metric, "margin": outcome.margin} | runs._asdict()
            for name, (outcome, runs) in outcomes.items()
        },
        "times": [row._asdict() for row in rows],
    }


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()

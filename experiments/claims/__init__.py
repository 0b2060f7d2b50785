"""The claims of the text, measured: an effect, its 95% interval, and a verdict each.

Without flags: all 21, in about four minutes on two cores; with numbers, only those.
`claim.py` has the rule of the verdicts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.claims import (
    capacity,
    depth,
    dropout,
    houses,
    linear,
    recall,
    symmetry,
)
from experiments.claims.claim import FAILS, HOLDS, OPEN, Finding, Setting
from experiments.common import cli, plots
from experiments.common.console import count, say
from experiments.common.errors import UsageError
from experiments.common.run_folder import RunFolder

# Number i is the i-th; the name is for a line of 80 columns.
CLAIMS = {
    "more features than rows overfit": linear.more_features_than_rows,
    "deep networks overfit": capacity.deep_networks_overfit,
    "dropout's noise is unbiased": dropout.unbiased,
    "dropout reduces overfitting": dropout.overfitting,
    "dropout and decay work together": dropout.joint,
    "masks belong to training only": dropout.training_only,
    "more images relieve overfitting": capacity.more_data_helps,
    "dropping features is blunter": linear.dropping_is_blunter,
    "decay lowers the test error": linear.decay_helps,
    "gradients vanish or explode": depth.gradient_with_depth,
    "the sigmoid saturates": depth.sigmoid_saturates,
    "layers near the input stay": depth.lower_layers_stay,
    "sums in place of products help": recall.sums_for_products,
    "normalising helps": depth.normalising,
    "the start fits the activation": depth.start_fits_activation,
    "units that start alike stay so": symmetry.units_stay_alike,
    "Adam forgives the learning rate": houses.adam_forgives_the_rate,
    "prices want logarithms": houses.relative_errors_want_logarithms,
    "folds foretell the error": houses.folds_foretell_the_error,
    "a shared layer sums gradients": symmetry.shared_layer,
    "interactions need a network": capacity.interactions,
}


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags."""

    numbers: cli.Positional[tuple[int, ...]] = ()
    """Which claims, from 1; all if none is given."""
    quick: bool = False
    """Fewer and smaller runs: all in 90 seconds once compiled, with wider intervals."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        for number in self.numbers:
            if not 1 <= number <= len(CLAIMS):
                raise UsageError(f"claims are 1 to {len(CLAIMS)}, got {number}")


def run(config: Config) -> None:
    """Measure each claim, print a line for each, and draw the forest plot."""
    folder = RunFolder.create("claims", config)
    findings = []
    numbers = config.numbers or range(1, len(CLAIMS) + 1)
    say("effects, with 95% intervals, in multiples of the smallest that counts\n")
    for number in numbers:
        setting = Setting(number, config.seed, config.quick, folder)
        finding = list(CLAIMS.values())[number - 1](setting)
        findings.append(finding._replace(number=number))
        say(line(findings[-1]))
    keep_effects(findings, folder)
    verdicts = [finding.verdict() for finding in findings]
    counts = {found: verdicts.count(found) for found in (HOLDS, FAILS, OPEN)}
    conditional = len(verdicts) - sum(counts.values())
    headline = (
        f"{count(len(findings), 'claim')}: {counts[HOLDS]} hold, {conditional} under "
        f"conditions, {counts[FAILS]} not here; {counts[OPEN]} not decided."
    )
    if any(not finding.exact for finding in findings):
        draw_forest(findings, headline, folder)
    folder.finish({"claims": [*map(record, findings)]}, headline=headline)


def line(finding: Finding) -> str:
    """Return name, effect and verdict in at most 80 columns.

    The effect is that of the first condition.
    """
    name = list(CLAIMS)[finding.number - 1]
    effect, low, high = np.array(finding.first()) / finding.smallest
    between = "" if finding.exact else f" [{low:.3g}, {high:.3g}]"
    held, each = finding.verdict().partition(" by ")[0], finding.verdicts()
    if held.startswith("holds if"):
        held = f"holds in {[*each.values()].count(HOLDS)} of {len(each)} cases"
    return f"{finding.number:2d}. {name:<31} {effect:>6.3g}{between:<16} {held}"


def keep_effects(findings: list[Finding], folder: RunFolder) -> None:
    """Record for the page what the lines have no room for."""
    columns = ["claim", "condition", "unit", "verdict", "effect", "low", "high"]
    rows = [
        [
            f"{finding.number}. {finding.claim}",
            condition,
            finding.unit,
            finding.verdicts()[condition],
            *(f"{number:.3g}" for number in interval),
        ]
        for finding in findings
        for condition, interval in finding.intervals().items()
    ]
    title = "Effects with 95% intervals"
    folder.tables.append(
        {"title": title, "columns": columns, "rows": rows, "num_texts": 4}
    )


def record(finding: Finding) -> dict[str, Any]:
    """Return a finding as `summary.json` has it; numbers are of the first condition."""
    intervals = finding.intervals()
    effect, low, high = finding.first()
    return {
        "number": finding.number,
        "claim": finding.claim,
        "source": finding.source,
        "effect": effect,
        "unit": finding.unit,
        "low": low,
        "high": high,
        "runs": len(next(iter(finding.effects.values()))),
        "smallest": finding.smallest,
        "conditions": {name: list(interval) for name, interval in intervals.items()},
        "verdict": finding.verdict(),
        "figure": f"claim{finding.number:02}.png",
    }


def draw_forest(findings: list[Finding], title: str, folder: RunFolder) -> None:
    """Draw each interval in multiples of the smallest effect that counts."""
    rows = [
        (finding, condition, interval)
        for finding in findings
        if not finding.exact
        for condition, interval in finding.intervals().items()
    ]
    with folder.figure(
        "forest.png",
        size=(8.5, 1.2 + 0.27 * len(rows)),
        title=title,
        caption="Effects with 95% intervals, in multiples of the smallest that counts: "
        "a claim holds where the whole interval lies right of the line at 1.",
        alt="Forest plot: a row for each condition of each claim, with a point for the "
        "effect and a bar for its interval, on a scale that is logarithmic away from "
        "zero; vertical lines at zero and one.",
    ) as axes:
        for y, (finding, _, interval) in enumerate(rows):
            effect, low, high = np.array(interval) / finding.smallest
            colour = plots.COLOURS[2 if low >= 1 else 1 if high < 1 else 4]
            axes.plot([low, high], [y, y], color=colour, lw=2)
            axes.plot(effect, y, "o", color=colour)
        axes.set_yticks(
            range(len(rows)),
            [
                f"{finding.number}. {condition or finding.claim}"
                for finding, condition, _ in rows
            ],
            fontsize=7,
        )
        axes.invert_yaxis()
        axes.set_xscale("symlog", linthresh=1)
        axes.margins(x=0.03)
        axes.xaxis.set_major_formatter("{x:g}")
        for at, dashes in ((0, ":"), (1, "--")):
            axes.axvline(at, color="0.3", ls=dashes, lw=1)
        axes.set_xlabel("effect / smallest effect that counts")

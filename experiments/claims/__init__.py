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
from experiments.common.console import say
from experiments.common.errors import UsageError
from experiments.common.run_folder import RunFolder

CLAIMS = (
    linear.more_features_than_rows,  # 1; number i is the i-th
    capacity.deep_networks_overfit,  # 2
    dropout.unbiased,  # 3
    dropout.overfitting,  # 4
    dropout.joint,  # 5
    dropout.training_only,  # 6
    capacity.more_data_helps,  # 7
    linear.dropping_is_blunter,  # 8
    linear.decay_helps,  # 9
    depth.gradient_with_depth,  # 10
    depth.sigmoid_saturates,  # 11
    depth.lower_layers_stay,  # 12
    recall.sums_for_products,  # 13
    depth.normalising,  # 14
    depth.start_fits_activation,  # 15
    symmetry.units_stay_alike,  # 16
    houses.adam_forgives_the_rate,  # 17
    houses.relative_errors_want_logarithms,  # 18
    houses.folds_foretell_the_error,  # 19
    symmetry.shared_layer,  # 20
    capacity.interactions,  # 21
)


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
    setting = Setting(config.seed, config.quick, folder)
    findings = []
    numbers = config.numbers or range(1, len(CLAIMS) + 1)
    if len(numbers) == len(CLAIMS):
        time = "90 seconds once compiled" if config.quick else "four minutes"
        say(f"{len(CLAIMS)} claims, about {time} on two cores\n")
    for number in numbers:
        finding = CLAIMS[number - 1](setting)
        findings.append(finding)
        say(line(finding))
    if any(not finding.exact for finding in findings):
        draw_forest(findings, folder)
    verdicts = [finding.verdict() for finding in findings]
    counts = {found: verdicts.count(found) for found in (HOLDS, FAILS, OPEN)}
    conditional = len(verdicts) - sum(counts.values())
    folder.finish(
        {
            "claims": [record(finding) for finding in findings],
            "seconds": folder.seconds(),
        },
        headline=f"Of {len(findings)} claims {counts[HOLDS]} hold, {conditional} hold "
        f"under conditions, {counts[FAILS]} do not hold here, {counts[OPEN]} are not "
        "decided.",
    )


def line(finding: Finding) -> str:
    """Return the claim, its verdict and its effect, in at most 80 columns a line."""
    effect, low, high = next(iter(finding.intervals().values()))
    between = "" if finding.exact else f" [{low:.3g}, {high:.3g}]"
    return (
        f"{finding.number:2d}. {finding.claim}\n"
        f"    {finding.verdict()}: {effect:.3g}{between} {finding.unit}"
    )


def record(finding: Finding) -> dict[str, Any]:
    """Return a finding as `summary.json` has it; numbers are of the first condition."""
    intervals = finding.intervals()
    effect, low, high = next(iter(intervals.values()))
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
        "figure": finding.figure,
    }


def draw_forest(findings: list[Finding], folder: RunFolder) -> None:
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
        title="Effects with 95% intervals, in multiples of the smallest that counts",
        caption="A claim holds where the whole interval lies right of the line at 1.",
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


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)

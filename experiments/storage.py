"""Saving and loading, and what happens when a disk or a process fails (D2L 6.5).

Without flags: the book's array, list, dictionary and perceptron, saved, loaded and
compared; an export for others; then bits of a checkpoint are flipped, and the process
that writes checkpoints is killed, and nothing is lost.
"""

import random
import shutil
import subprocess
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ch4jax import interop as export
from ch4jax import storage
from ch4jax.blocks import MLP
from ch4jax.errors import DataError
from experiments.common import cli, timing
from experiments.common.console import Report, count
from experiments.common.errors import Failed

ROUNDS = 9


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the demonstrations."""

    flips: int = 200
    """Bits flipped, one at a time, over all files of a checkpoint."""
    kills: int = 3
    """Times that the writer is killed."""

    def __post_init__(self) -> None:
        """Check the flags."""
        super().__post_init__()
        cli.check_at_least_1("--flips", self.flips)
        cli.check_at_least_1("--kills", self.kills)


def read_and_write(report: Report) -> dict[str, bool]:
    """Save and load an array, a list and a dictionary; return which came back."""
    x, y = jnp.arange(4), jnp.zeros(4)
    came_back = {}
    for name, tree in {"x": x, "x-and-y": [x, y], "xy": {"x": x, "y": y}}.items():
        storage.save(report.folder / name, tree)
        loaded = storage.load(report.folder / name)
        came_back[name] = equal(loaded, tree)
        report.say(f"{name}: {loaded}")
    return came_back


def clone(config: Config, report: Report) -> tuple[Any, bool]:
    """Save a perceptron's parameters and load them into a clone; compare outputs."""
    net = MLP()
    init_key, input_key = jax.random.split(jax.random.key(config.seed))
    inputs = jax.random.normal(input_key, (2, 20))
    params = net.init(init_key, inputs)
    storage.save(report.folder / "mlp.params", params)

    # Shapes are enough to load into: the clone is never drawn at random.
    like = jax.eval_shape(net.init, init_key, inputs)
    cloned = storage.load(report.folder / "mlp.params", like=like)
    same = net.apply(params, inputs) == net.apply(cloned, inputs)
    report.say(f"outputs of the clone equal those of the network:\n{same}")
    return params, bool(jnp.all(jnp.asarray(same)))


def flip_bits(config: Config, params: Any, report: Report) -> Counter[str]:
    """Flip bits of a checkpoint one at a time, and count what becomes of the load."""
    shutil.rmtree(report.folder / "flipped", ignore_errors=True)
    checkpoints = storage.Checkpoints(report.folder / "flipped", keep=2)
    for step in (1, 2):
        checkpoints.save(step, state(params, step))
    newest = checkpoints.directory / "00000002"
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    draw = random.Random(config.seed)
    outcomes: Counter[str] = Counter()
    said = ""
    for i in range(config.flips):
        file = files[i % len(files)]
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        try:
            loaded = checkpoints.restore(state(params, 0), step=2)[1]
            right = equal(loaded, state(params, 2))
            outcomes["harmless" if right else "wrong numbers"] += 1
        except DataError as error:
            outcomes["caught"] += 1
            said = said or str(error)
        file.write_bytes(content)
    report.say(f"the first flip: {said}")

    files[0].write_bytes(files[0].read_bytes()[:-1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step, _ = checkpoints.restore(state(params, 0))
    report.say(f"a file of step 2 cut short, restored step {step}: {caught[0].message}")
    return outcomes


def kill_writer(config: Config, params: Any, report: Report) -> list[dict[str, Any]]:
    """Kill a process that saves checkpoints, reopen them, and tell what was there."""
    directory = report.folder / "killed"
    shutil.rmtree(directory, ignore_errors=True)
    draw = random.Random(config.seed)
    rows = []
    for _ in range(config.kills):
        code = f"from experiments.storage import write; write({str(directory)!r})"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(draw.uniform(0.05, 0.5))
            writer.kill()
            lines = [first, *writer.stdout]
        saved = [int(line) for line in lines if line.endswith("\n")]
        if not saved:
            raise Failed("the process that saves checkpoints did not start")
        left = sorted(path.name for path in directory.glob(".*"))
        checkpoints = storage.Checkpoints(directory)
        step, restored = checkpoints.restore(state(params, 0))
        rows.append(
            {
                "saved": saved[-1],
                "restored": step,
                "exact": equal(restored, state(params, step)),
                "left": left,
                "left_after": [path.name for path in directory.glob(".*")],
                "steps": checkpoints.steps(),
            }
        )
    return rows


def write(directory: str) -> None:
    """Save one checkpoint after the other, and print the steps, until killed."""
    params = storage.load(Path(directory).parent / "mlp.params")
    checkpoints = storage.Checkpoints(directory)
    step = max(checkpoints.steps(), default=0)
    while True:
        step += 1
        checkpoints.save(step, state(params, step))
        print(step, flush=True)


def state(params: Any, step: int) -> dict[str, Any]:
    """Return what is saved at a step; each differs from all others."""
    return {"params": jax.tree.map(lambda leaf: leaf + step, params), "step": step}


def equal(a: Any, b: Any) -> bool:
    """Return whether two trees have the same form, dtypes and numbers."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.asarray(x).dtype == np.asarray(y).dtype and np.array_equal(x, y)
        for x, y in leaves
    )


def run(config: Config, report: Report) -> None:
    """Show the book's section, then the failures; write the summary."""
    report.begin(config)
    came_back = read_and_write(report)
    params, came_back["mlp.params"] = clone(config, report)
    export.export(report.folder / "exported", params, {"hidden": 256, "outputs": 10})
    loaded, _ = export.load_exported(report.folder / "exported")
    came_back["exported"] = equal(loaded, params)
    report.table(
        ["saved", "came back"], [[n, "exactly" * ok] for n, ok in came_back.items()]
    )

    report.say(f"\nflipping {config.flips} bits, one at a time")
    outcomes = flip_bits(config, params, report)
    report.table(
        ["", "flips"], [[name, str(count)] for name, count in outcomes.items()]
    )
    if outcomes["harmless"]:
        report.say("a harmless flip turns a blank of a manifest into another blank")

    report.say(f"\nkilling the writer {count(config.kills, 'time')}")
    rows = kill_writer(config, params, report)
    report.table(
        ["left behind", "last saved", "restored", "exact", "steps"],
        [
            [
                " ".join(row["left"]) or "nothing",
                str(row["saved"]),
                str(row["restored"]),
                "yes" if row["exact"] else "no",
                " ".join(map(str, row["steps"])),
            ]
            for row in rows
        ],
    )
    report.say("what is left behind is gone once the checkpoints are opened again")

    path = report.folder / "mlp.params"
    timings = timing.interleave(
        {
            "save": lambda: storage.save(path, params),
            "load": lambda: storage.load(path, like=params),
        },
        rounds=ROUNDS,
    )
    seconds = {name: timing.median for name, timing in timings.items()}
    report.say(
        f"\nsaving the perceptron takes {seconds['save'] * 1e3:.0f} ms, loading it "
        f"{seconds['load'] * 1e3:.0f} ms (medians of {ROUNDS})"
    )
    kept = all(
        row["exact"] and row["restored"] >= row["saved"] and not row["left_after"]
        for row in rows
    )
    if not kept or outcomes["wrong numbers"] or not all(came_back.values()):
        raise Failed("something was lost; the tables say what")
    report.finish(
        {
            "came_back": came_back,
            "flips": dict(outcomes),
            "kills": rows,
            "seconds": {**seconds, "total": report.seconds()},
        }
    )


def main() -> None:
    """Run from the command line."""
    cli.main(Config, run)


if __name__ == "__main__":
    main()

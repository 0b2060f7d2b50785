"""Saving and loading, and what happens when a disk or a process fails (D2L 6.6).

Without flags: the book's array, list, dictionary and perceptron, saved, loaded and
compared; an export for other programs; then bits of a checkpoint are flipped, and the
process that writes checkpoints is killed.
"""

import random
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
from jaxtyping import PyTree

from ch4jax import interop, storage
from ch4jax.blocks import MLP
from ch4jax.errors import DataError
from ch4jax.parameters import layout
from experiments.common import cli, timing
from experiments.common.console import count, say
from experiments.common.errors import Failed
from experiments.common.run_folder import RunFolder

ROUNDS = 9


@dataclass(frozen=True)
class Config(cli.Flags):
    """Flags of the demonstrations."""

    flips: cli.Count = 200
    """Bits flipped, one at a time, over all files of a checkpoint."""
    kills: cli.Count = 3
    """Times that the writer is killed."""


def run(config: Config) -> None:
    """Show the book's section, then the failures; write the summary."""
    folder = RunFolder.create("storage", config)
    came_back = read_and_write(folder.path)
    params, came_back["mlp.params"] = clone(config.seed, folder.path)
    interop.export(folder.path / "exported", params, {"hidden": 256, "outputs": 10})
    exported, _ = interop.load_exported(folder.path / "exported")
    came_back["exported"] = equal(exported, params)
    rows = [[name, "exactly" if ok else "changed"] for name, ok in came_back.items()]
    folder.table(["saved", "came back"], rows, num_texts=2)

    say(f"\nflipping {count(config.flips, 'bit')}, one at a time")
    outcomes = flip_bits(config, params, folder.path / "flipped")
    folder.table(["", "flips"], [[name, str(n)] for name, n in outcomes.items()])
    if outcomes["harmless"]:
        say("a harmless flip turns a blank of a manifest into another blank")

    say(f"\nkilling the writer {count(config.kills, 'time')}")
    kills = kill_writer(config, params, folder.path / "killed")
    folder.table(
        ["left behind", "last saved", "restored", "exact", "steps"],
        [
            [
                " ".join(kill["left"]) or "nothing",
                str(kill["saved"]),
                str(kill["restored"]),
                "yes" if kill["exact"] else "no",
                " ".join(map(str, kill["steps"])),
            ]
            for kill in kills
        ],
    )
    say("the next save removes what is left behind")
    seconds = time_perceptron(folder.path / "mlp.params", params)
    kept = all(
        kill["exact"] and kill["restored"] >= kill["saved"] and not kill["left_after"]
        for kill in kills
    )
    if not kept or outcomes["wrong numbers"] or not all(came_back.values()):
        raise Failed("something was not saved or restored exactly; see the tables")
    folder.finish(
        {
            "came_back": came_back,
            "flips": dict(outcomes),
            "kills": kills,
            "seconds": {**seconds, "total": folder.seconds()},
        },
        headline=f"{count(config.flips, 'bit')} flipped, none loaded as a wrong number;"
        f" {count(config.kills, 'writer')} killed, no saved step missing.",
    )


def read_and_write(path: Path) -> dict[str, bool]:
    """Save and load an array, a list and a dictionary; return which came back."""
    x, y = jnp.arange(4), jnp.zeros(4)
    came_back = {}
    for name, tree in {"x": x, "x-and-y": [x, y], "xy": {"x": x, "y": y}}.items():
        storage.save(path / name, tree)
        loaded = storage.load(path / name)
        came_back[name] = equal(loaded, tree)
        say(f"{name}: {loaded}")
    return came_back


def clone(seed: int, path: Path) -> tuple[PyTree, bool]:
    """Save a perceptron's parameters and load them into a clone; compare outputs."""
    net = MLP()
    init_key, input_key = jax.random.split(jax.random.key(seed))
    inputs = jax.random.normal(input_key, (2, 20))
    params = net.init(init_key, inputs)
    storage.save(path / "mlp.params", params)

    # Shapes are enough to load into: nothing is drawn for the clone.
    like = jax.eval_shape(net.init, init_key, inputs)
    cloned = storage.load(path / "mlp.params", like=like)
    say(layout(net, inputs))  # no eval(): no layer behaves otherwise in training
    same = jnp.equal(*(jnp.asarray(net.apply(p, inputs)) for p in (params, cloned)))
    say(f"outputs of the clone equal those of the network:\n{same}")
    return params, bool(same.all())


def flip_bits(config: Config, params: PyTree, path: Path) -> Counter[str]:
    """Flip bits of a checkpoint one at a time, and count how loading it ends."""
    checkpoints = storage.Checkpoints(path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, state(params, step))
    files = sorted(file for file in (path / "00000002").rglob("*") if file.is_file())
    draw = random.Random(config.seed)
    outcomes: Counter[str] = Counter()
    message = ""
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
            message = message or str(error)
        file.write_bytes(content)
    say(f"the first flip: {message}")

    files[0].write_bytes(files[0].read_bytes()[:-1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step, _ = checkpoints.restore(state(params, 0))
    say(f"a file of step 2 cut short, restored step {step}: {caught[0].message}")
    return outcomes


def kill_writer(config: Config, params: PyTree, path: Path) -> list[dict[str, Any]]:
    """Kill a process that saves checkpoints, reopen them, and return what was there."""
    draw = random.Random(config.seed)
    kills = []
    for _ in range(config.kills):
        code = f"from experiments.storage import write; write({str(path)!r})"
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            try:
                first = writer.stdout.readline()
                time.sleep(draw.uniform(0.05, 0.5))
            finally:  # also if a signal ends the experiment
                writer.kill()
            lines = [first, *writer.stdout]
        saved = [int(line) for line in lines if line.endswith("\n")]
        if not saved:
            raise Failed("the process that saves checkpoints did not start")
        left = sorted(file.name for file in path.glob(".*"))
        checkpoints = storage.Checkpoints(path)
        step, restored = checkpoints.restore(state(params, 0))
        kills.append(
            {
                "saved": saved[-1],
                "restored": step,
                "exact": equal(restored, state(params, step)),
                "left": left,
                "steps": checkpoints.steps(),
            }
        )
        checkpoints.save(step + 1, state(params, step + 1))
        kills[-1]["left_after"] = [file.name for file in path.glob(".*")]
    return kills


def write(directory: str) -> None:
    """Save one checkpoint after the other, and print the steps, until killed."""
    params = storage.load(Path(directory).parent / "mlp.params")
    checkpoints = storage.Checkpoints(directory)
    step = max(checkpoints.steps(), default=0)
    while True:
        step += 1
        checkpoints.save(step, state(params, step))
        print(step, flush=True)


def time_perceptron(path: Path, params: PyTree) -> dict[str, float]:
    """Return and print the median seconds of saving and loading the perceptron."""
    works = {
        "save": lambda: storage.save(path, params) or path,  # the work is done
        "load": lambda: storage.load(path, like=params),
    }
    timings = timing.interleave(works, rounds=ROUNDS)
    seconds = {name: timing.median for name, timing in timings.items()}
    save, load = (f"{value * 1e3:.0f} ms" for value in seconds.values())
    say(f"\nsaving the perceptron takes {save}, loading {load} (medians of {ROUNDS})")
    return seconds


def state(params: PyTree, step: int) -> dict[str, PyTree]:
    """Return what is saved at a step; each differs from all others."""
    return {"params": jax.tree.map(lambda leaf: leaf + step, params), "step": step}


def equal(a: PyTree, b: PyTree) -> bool:
    """Return whether two trees have the same form, dtypes and numbers."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.asarray(x).dtype == np.asarray(y).dtype and np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


if __name__ == "__main__":
    cli.main(Config, run)

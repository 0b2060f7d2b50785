"""Resuming a run: what may differ, and the command that does it."""

import contextlib
import os
import shlex
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ch4jax import storage
from ch4jax.data.files import read_object
from ch4jax.errors import Mismatch
from experiments.common import setup
from experiments.common.errors import UsageError
from experiments.common.signals import LAUNCHED_AS

MAY_DIFFER = {
    *("out", "platform", "precision", "resume", "save_every", "devices"),
    *("coordinator", "num_processes", "process_id", "distributed"),
}


def check(
    folder: Path, config: Mapping[str, Any], environment: Mapping[str, Any]
) -> None:
    """Compare a run with the one in `folder` that it is to resume.

    Warns about what may change the last bits: versions, devices, matmul precision and
    XLA's flags.

    Raises:
      UsageError: if a flag differs, except for more epochs, or a setting of JAX that
        changes what is drawn; if the run is finished, except with more epochs.
    """
    saved, ran_in = (_read(folder / name) for name in ("config.json", "env.json"))
    trained, epochs = saved.get("epochs"), config.get("epochs", 0)
    more = isinstance(trained, int) and epochs > trained
    differ = [
        f"--{name.replace('_', '-')} was {saved.get(name)} and is {value}"
        for name, value in config.items()
        if name not in MAY_DIFFER and value != saved.get(name)
        if name != "epochs" or not more
    ]
    was = ran_in.get("numerics", {})
    numerics = {n: v for n, v in environment.get("numerics", {}).items() if n in was}
    differ += [
        f"{name} was {was[name]} and is {value}"
        for name, value in numerics.items()
        if name in setup.DRAWS and value != was[name]
    ]
    if differ:
        raise UsageError(f"--resume {folder}: {', '.join(differ)}; expected the same")
    if (folder / "summary.json").exists() and not more:
        raise UsageError(
            f"--resume {folder}: the run is finished; --epochs must be above {trained} "
            f"to train it for longer, got {epochs}"
        )
    before, now = (
        {
            "devices": env.get("devices"),
            "processes": env.get("processes", 1),
            **env.get("packages", {}),
            **{name: env["numerics"][name] for name in numerics},
        }
        for env in (ran_in, environment)
    )
    changed = [
        f"{name} was {before.get(name)} and is {value}"
        for name, value in now.items()
        if value != before.get(name)
    ]
    if changed:
        warnings.warn(
            f"the run resumes, but not bit for bit: {', '.join(changed)}", stacklevel=2
        )


def check_checkpoints(folder: Path) -> None:
    """Read the checkpoints that a run in `folder` is to resume from.

    Raises:
      UsageError: if there are none, and what the run has computed would be replaced.
      Damaged: if all those of one label are.
    """
    labels = [storage.Checkpoints(p) for p in (folder / "checkpoints").glob("*/")]
    saved = [checkpoints for checkpoints in labels if checkpoints.steps()]
    metrics = folder / "metrics.jsonl"
    if not saved and metrics.exists() and metrics.stat().st_size:
        raise UsageError(
            f"--resume {folder}: the run has saved no checkpoint; start it again with "
            "another --out"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `loop.train` restores them, and warns
        for checkpoints in saved:
            # Their bytes are right if nothing but an example for a type is missing.
            with contextlib.suppress(Mismatch):
                checkpoints.restore()


def command(name: str, folder: Path | None = None) -> str:
    """Return the command that was typed, or the one that resumes its run in `folder`.

    Either way without --out and --resume, whose folders this run has used.
    """
    typed = ["python", "-m", f"experiments.{name}", *sys.argv[1:]]
    words = iter(shlex.split(os.environ.get(LAUNCHED_AS, "")) or typed)
    kept = []
    for word in words:
        if word.partition("=")[0] not in ("--out", "--resume"):
            kept.append(word)
        elif "=" not in word:
            next(words, None)
    return shlex.join([*kept, "--resume", str(folder)] if folder else kept)


def _read(path: Path) -> dict[str, Any]:
    content = read_object(path)
    parts = [content.get(name, {}) for name in ("numerics", "packages")]
    if content and all(isinstance(part, dict) for part in parts):
        return content
    raise UsageError(
        f"--resume {path.parent} must be the folder of a run; there is no sound "
        f"{path.name} in it"
    )

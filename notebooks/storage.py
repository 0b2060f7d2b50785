# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Saving and loading (D2L 6.5)
#
# What comes back is what was saved, bit for bit, or an error that says what is wrong.

# %%
# Installs ch4jax where it is not yet: from a clone, if this runs in one.
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("ch4jax") is None:
    clones = [folder for folder in ("..", ".") if Path(folder, "ch4jax").is_dir()]
    if not clones:
        raise ModuleNotFoundError("ch4jax: run this in a clone of its repository")
    install = [sys.executable, "-m", "pip", "install", "-q", clones[0]]
    subprocess.run(install, check=True)

# %%
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from ch4jax import storage
from ch4jax.errors import Damaged

folder = Path(tempfile.mkdtemp())
tree = {"x": jnp.arange(4), "more": [jnp.zeros(4), "a name", 0.5]}
storage.save(folder / "tree", tree)
print(storage.load(folder / "tree"))

# %% [markdown]
# Every file has its hash. One flipped bit, and nothing is loaded:

# %%
files = [path for path in (folder / "tree" / "arrays").rglob("*") if path.is_file()]
file = max(files, key=lambda path: path.stat().st_size)
content = bytearray(file.read_bytes())
content[len(content) // 2] ^= 1
file.write_bytes(content)
try:
    storage.load(folder / "tree")
except Damaged as error:
    print("refused:", str(error).removeprefix(str(folder)))
else:
    raise AssertionError("a flipped bit was not noticed")

# %% [markdown]
# `Checkpoints` keeps the newest states of a run. What is random at a step is drawn
# from the step's number, so a run that goes on from a checkpoint does what an
# uninterrupted one does.


# %%
@jax.jit
def step(w, i):
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), i), w.shape)
    return w - 0.1 * (w + noise)


def run(w, first, last, checkpoints=None):
    path = []
    for i in range(first, last):
        w = step(w, i)
        path.append(w[0])
        if checkpoints and i % 10 == 9:
            checkpoints.save(i, w)
    return path


checkpoints = storage.Checkpoints(folder / "run", keep=2)
start = jnp.full(3, 5.0)
run(start, 0, 45, checkpoints)  # and here the power fails
saved, w = checkpoints.restore()
resumed, whole = run(w, saved + 1, 80), run(start, 0, 80)
plt.plot(whole, label="uninterrupted")
plt.plot(
    range(saved + 1, 80), resumed, "--", label=f"from the checkpoint of step {saved}"
)
plt.xlabel("step")
plt.legend()
plt.show()
assert np.array_equal(resumed, whole[saved + 1 :])

# %% [markdown]
# **To try.** Damage a file of the newest checkpoint and restore again: which step
# comes back, and what is said?

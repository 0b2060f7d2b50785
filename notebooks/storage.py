# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Saving and loading (D2L 6.6)
#
# You load exactly what you saved, bit for bit, or you get an error that says what is
# wrong.

# %%
# If ch4jax is missing: pip install -e . in a clone of its repository.
import tempfile
from pathlib import Path

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
# Every file has a hash. If one bit is flipped, nothing is loaded:

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
# `Checkpoints` keeps the newest states of a run. The noise of a step depends on the
# step's number alone, so a run that resumes from a checkpoint repeats an uninterrupted
# one exactly.


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
run(start, 0, 45, checkpoints)  # the power fails here
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
# **To try.** Damage a file of the newest checkpoint and restore again: which step do
# you get, and what does the warning say?

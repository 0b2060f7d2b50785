"""Other devices: the facts of `eight_devices` and `rounded_products`, and refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ch4jax.training import sharding


@pytest.mark.parametrize("facts", ["eight_devices.py", "rounded_products.py"])
def test_the_facts_of_other_devices(facts):
    facts = Path(__file__).with_name(facts)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", str(facts)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (0, "must be positive and a multiple of 1, .*, got 0"),
        (9, "must be at most 1, as many cpu devices as there are, got 9"),
    ],
)
def test_devices_that_are_not_there_are_refused(devices, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(devices)

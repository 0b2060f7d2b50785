"""Other devices: the facts of `eight_devices` and `rounded_products`, and refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("facts", ["eight_devices.py", "rounded_products.py"])
def test_the_facts_of_other_devices(facts):
    facts = Path(__file__).with_name(facts)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", str(facts)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout

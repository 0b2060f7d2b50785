"""Other devices: the facts of `eight_devices` and `rounded_products`."""

from pathlib import Path

import pytest
from support import command


@pytest.mark.parametrize("facts", ["eight_devices.py", "rounded_products.py"])
def test_the_facts_of_other_devices(facts):
    file = Path(__file__).with_name(facts)
    environment = {"JAX_NUM_CPU_DEVICES": "8", "MPLBACKEND": "agg"}
    done = command("-m", "pytest", "-n", "0", "-q", str(file), **environment)
    assert done.returncode == 0, done.stdout

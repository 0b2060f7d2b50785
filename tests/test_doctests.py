"""The examples in the docstrings give what they say they give."""

import doctest
import importlib
import pkgutil

import pytest

import ch4jax

MODULES = [
    module.name for module in pkgutil.walk_packages(ch4jax.__path__, prefix="ch4jax.")
]
MODULES += ["experiments.console"]
TAUGHT = {"dropout", "weight_decay", "initialization", "blocks", "layers"}
TAUGHT |= {"parameters", "house_prices", "training", "folds"}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_room_give_what_they_say(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0
    assert results.attempted > 0 or name.rpartition(".")[2] not in TAUGHT

"""The examples in the docstrings give what they say they give."""

import doctest
import importlib
import pkgutil

import pytest

import ch4jax

MODULES = [info.name for info in pkgutil.walk_packages(ch4jax.__path__, "ch4jax.")]
MODULES += ["experiments.common.console", "experiments.growth", "experiments.search"]
WITH_EXAMPLES = {"dropout", "weight_decay", "initialization", "blocks", "layers"}
WITH_EXAMPLES |= {"parameters", "house_prices", "training._epoch"}
WITH_EXAMPLES |= {"training.folds"}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_what_they_say(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0
    assert results.attempted > 0 or name.removeprefix("ch4jax.") not in WITH_EXAMPLES

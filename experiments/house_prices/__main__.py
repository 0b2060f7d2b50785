"""Run `experiments.house_prices` from the command line."""

from experiments.house_prices import Config, run
from experiments.common import cli

cli.main(Config, run)

"""Run `experiments.house_prices` from the command line."""

from experiments.common import cli
from experiments.house_prices import Config, run

cli.main(Config, run)

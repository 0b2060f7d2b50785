"""Run `experiments.benchmark` from the command line."""

from experiments.benchmark import Config, run
from experiments.common import cli

cli.main(Config, run)

"""Run `experiments.initialization` from the command line."""

from experiments.common import cli
from experiments.initialization import Config, run

cli.main(Config, run)

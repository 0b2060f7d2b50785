"""Run `experiments.dropout` from the command line."""

from experiments.common import cli
from experiments.dropout import Config, run

cli.main(Config, run)

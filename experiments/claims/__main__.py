"""Run `experiments.claims` from the command line."""

from experiments.claims import Config, run
from experiments.common import cli

cli.main(Config, run)

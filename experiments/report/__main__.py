"""Run `experiments.report` from the command line.

No device is touched, so that the runs have them.
"""

import sys

from experiments.common import cli
from experiments.report import Config, run

sys.exit(cli.exit_code(lambda: run(cli.parse(Config))))

"""Run `experiments.report` from the command line."""

from experiments.report import main

main()

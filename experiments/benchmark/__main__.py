"""Run `experiments.benchmark` from the command line."""

from experiments.benchmark import main

main()

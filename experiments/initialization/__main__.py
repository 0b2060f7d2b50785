"""Run `experiments.initialization` from the command line."""

from experiments.initialization import main

main()

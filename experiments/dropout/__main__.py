"""Run `experiments.dropout` from the command line."""

from experiments.dropout import main

main()

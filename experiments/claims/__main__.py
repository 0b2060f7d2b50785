"""Run `experiments.claims` from the command line."""

from experiments.claims import main

main()

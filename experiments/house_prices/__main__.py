"""Run `experiments.house_prices` from the command line."""

from experiments.house_prices import main

main()

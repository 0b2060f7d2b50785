"""Run the claims: python -m experiments.claims."""

from experiments.claims import main

main()

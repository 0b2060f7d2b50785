"""What can be run: `python -m experiments` lists it."""

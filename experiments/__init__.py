"""The commands: `python -m experiments` lists them."""

import os
import signal
import sys

if sys.argv[:1] == ["-m"]:  # a command starts, and will import for a second or two
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback
    os.environ["MPLBACKEND"] = "agg"  # figures are files
    if any(name.startswith("JAX_") for name in os.environ):
        try:
            import jax  # noqa: F401
        except ValueError as error:  # of a variable that it cannot parse
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

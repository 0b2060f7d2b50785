"""The commands: `python -m experiments` lists them."""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # a command starts, and will import for a second or two
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a traceback

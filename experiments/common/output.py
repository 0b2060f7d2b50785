"""Standard output and standard error that may fail without ending the command."""

import io
import os
import sys
from typing import Any


class Output(io.FileIO):
    """A stream whose reader may leave, or whose disk may fill.

    A run of hours is not lost because its last line cannot be printed: what follows an
    error is discarded, and `cli` reports it at the end.

    Attributes:
      error: the first one.
    """

    error: OSError | None = None

    def write(self, content: Any, /) -> int:
        """Write bytes, unless that has failed before."""
        if self.error is None:
            try:
                return super().write(content)
            except OSError as error:
                self.error = error
        return memoryview(content).nbytes


def protect() -> Output | None:
    """Let both streams survive errors, and characters that they cannot encode.

    Returns:
      Standard output; None if something has replaced it, as tests do.
    """
    if sys.stdout is not sys.__stdout__:
        return None
    outputs = []
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        closed = stream is None  # by the shell, with >&-
        if closed:  # or else the next file that is opened would take its place
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        raw = Output(number, "w", closefd=False)
        if closed:
            raw.error = OSError(0, "it is closed")
        protected = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding="utf-8" if closed else stream.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, protected)
        outputs.append(raw)
    return outputs[0]

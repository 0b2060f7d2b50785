"""Ctrl-C and SIGTERM end a command within seconds, but not in the middle of a save."""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from experiments.common.errors import Interrupted

LAUNCHED_AS = "CH4JAX_LAUNCHED_AS"  # `launch` passes on the command that you typed
GRACE_SECONDS = 4.0
AGAIN = b"\0"  # no signal has this number
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

_postponing: list[list[int]] = []  # what each `postponed` block in progress has noted


@contextmanager
def raised() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise Interrupted in this block.

    Python raises between two bytecodes: not as long as a compiled program runs, and in
    vain in a finalizer or a callback of the garbage collector, of which JAX has one.
    So a thread raises again after the latter, and ends the process if it is still there
    after `GRACE_SECONDS`, during which no block was `postponed`.
    """
    pipe, end = os.pipe()
    os.set_blocking(end, False)
    wakeup = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()
    in_vain = sys.unraisablehook

    def again(raised: "sys.UnraisableHookArgs") -> None:
        if isinstance(raised.exc_value, Interrupted):
            os.write(end, AGAIN)
        else:
            in_vain(raised)

    sys.unraisablehook = again
    previous = {number: signal.signal(number, _raise) for number in WORDS}
    try:
        yield
    except Exception as error:  # such as Python's own, if a class was being made
        cause: BaseException | None = error
        while cause and not isinstance(cause, Interrupted):
            cause = cause.__cause__ or cause.__context__
        if cause:
            raise cause from None
        raise
    finally:
        sys.unraisablehook = in_vain
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(end)


@contextmanager
def postponed() -> Iterator[list[int]]:
    """Note Ctrl-C and SIGTERM in the list that is yielded; a second one acts at once.

    `launch` passes signals on, so that one from a cluster may arrive twice; a process
    that it started leaves the second to it.

    Raises:
      Interrupted: at the end, if one was noted.
    """
    noted: list[int] = []
    previous = {}

    def note(number: int, _: FrameType | None) -> None:
        noted.append(number)
        if LAUNCHED_AS not in os.environ:
            signal.signal(number, previous[number])

    _postponing.append(noted)
    for number in WORDS:
        previous[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _postponing.remove(noted)
    if noted:
        _raise(noted[0], None)


def _raise(number: int, _: FrameType | None) -> None:
    raise Interrupted(WORDS[signal.Signals(number)], number)


def _watch(pipe: int) -> None:
    received: list[int] = []
    deadline = 0.0
    while True:
        if select.select([pipe], [], [], 0.1 if received else None)[0]:
            numbers = os.read(pipe, 64)  # as Python's C code writes them
            if not numbers:  # the block has ended
                os.close(pipe)
                return
            received += [number for number in numbers if number in WORDS]
            if AGAIN in numbers:
                time.sleep(0.1)  # until the hook has returned: it must not raise itself
                signal.raise_signal(received[0])
        if not received:
            continue
        first = len(received) < 2 or LAUNCHED_AS in os.environ
        if not deadline or (_postponing and first):
            deadline = time.monotonic() + GRACE_SECONDS
        elif time.monotonic() > deadline:
            word = WORDS[signal.Signals(received[0])]
            os.write(2, f"error: {word}\n".encode())
            os._exit(128 + received[0])

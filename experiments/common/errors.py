"""What ends a command early; each is one line and one exit code."""


class UsageError(Exception):
    """A flag has a value it cannot have; names both, and what is allowed. Exit 2."""


class Failed(Exception):
    """The run cannot continue; says why, and what may help. Exit 1."""


class Interrupted(BaseException):
    """A signal ended the run; says how to resume it. Exit 128 + the signal.

    No `except Exception`, of which JAX and Orbax have many, catches it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.code = 128 + number

"""What can end a run early; each is one line and one exit code."""


class UsageError(Exception):
    """A flag has a value it cannot have; names both, and what it can have. Exit 2."""


class Failed(Exception):
    """The run cannot go on; says why, and what may help. Exit 1."""


class LostPeer(Exception):
    """Another process of the run is gone; says which, if that is known. Exit 75."""


class Interrupted(Exception):
    """A signal ended the run; says how to go on with it. Exit 128 + the signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.code = 128 + number

"""What can go wrong that a user can mend; each is one line and one exit code."""


class UsageError(Exception):
    """A flag has a value it cannot have; names both, and what it can have. Exit 2."""


class Failed(Exception):
    """The run cannot go on; says why, and what may help. Exit 1."""

"""What a user of this package may catch; every message is one line that says why."""


class DataError(Exception):
    """A file is not what it should be; the message names it and what was expected."""


class NetworkError(Exception):
    """A download failed; the message says where to put the file by hand."""


class Refused(ValueError):
    """A tree could not be restored as it is; nothing was written."""


class Damaged(DataError):
    """What is on disk is not what was saved."""


class Mismatch(DataError):
    """What was saved is sound, but is not what was asked for."""

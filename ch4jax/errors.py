"""The errors that you may want to catch; each message is one line that says why."""


class DataError(Exception):
    """A file is not what it should be; names it and what was expected."""


class NetworkError(Exception):
    """A download failed; says where to put the file by hand."""


class Refused(ValueError):
    """A tree could not be restored exactly, so nothing was written."""


class Damaged(DataError):
    """The bytes on disk are not those that were saved."""


class Mismatch(DataError):
    """What was saved is intact, but is not what was asked for."""

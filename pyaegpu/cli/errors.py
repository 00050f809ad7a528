"""What a user can cause and put right."""


class UsageError(Exception):
    """A bad argument or a missing piece; the message is shown as it is, on one line."""

"""Refusals: what the demo tells a client whose request it does not serve."""


class RefusedError(ValueError):
    """A request that the demo refuses. The message is for the person who sent it.

    Args:
        message: What is wrong, and what to do.
        status: HTTP status code of the answer.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status

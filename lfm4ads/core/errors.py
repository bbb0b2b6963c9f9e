"""The one exception that speaks to the user."""


class UserError(ValueError):
    """A mistake the user can mend; its message is one sentence that names the place and the fix."""

    def __init__(self, sentence: str, *, everywhere: bool = False) -> None:
        super().__init__(sentence)
        self.everywhere = everywhere
        """Whether every rank raises this same sentence, so that one printing it is enough."""


class AbsentError(UserError):
    """Another rank did not come to the start of the job; the same command starts it again."""


class StoppedError(UserError):
    """The job was told to stop and did, after a whole step; the same command goes on."""

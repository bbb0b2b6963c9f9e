"""The one exception that speaks to the user."""


class UserError(ValueError):
    """A mistake the user can mend; its message is one sentence that names the place and the fix."""

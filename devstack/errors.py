"""What can go wrong with a stack, for the person who started it."""


class StackError(Exception):
    """The stack cannot start or go on. The message says what happened and what to do about it."""

"""What is wrong with a setting, in our words: pydantic's own change with its versions and speak of Python."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

# By pydantic's type of error; {names} are those of its context.
_WORDS: Final[Mapping[str, str]] = {
    "missing": "is not set, and there is no default",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have {max_length} or fewer characters",
    "too_short": "must have {min_length} or more items",
    "too_long": "must have {max_length} or fewer items",
    "path_type": "must be a path",
}


def problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yield the names of the settings with what is wrong with each; the name is empty for several together."""
    for detail in error.errors(include_url=False, include_input=False):
        yield ".".join(str(part) for part in detail["loc"]).upper(), _words(detail)


def _words(detail: ErrorDetails) -> str:
    context: dict[str, Any] = detail.get("ctx", {})
    if detail["type"] == "value_error":
        return str(context["error"])  # ours
    words = _WORDS.get(detail["type"], "is not a valid value")
    return words.format_map({name: _plain(value) for name, value in context.items()})


def _plain(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return str(value)

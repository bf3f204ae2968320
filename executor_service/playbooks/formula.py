"""Texts that a spreadsheet would run as formulas."""

_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # the wide ones count where people write with them


def without_formula(text: str) -> str:
    """Return the text without the signs at its beginning that make a spreadsheet run it."""
    return text.lstrip(f"{_FORMULA} ") if text.lstrip(" ").startswith(tuple(_FORMULA)) else text

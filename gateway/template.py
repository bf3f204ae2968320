"""Path templates as google.api.http has them: "/api/projects/{project_id}/runs/{run_id}:watch"."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

_VARIABLE: Final = re.compile(r"\{([a-z][a-z0-9_]*)(?:=\*)?\}")


class Template:
    """A path with variables, each one segment of it. Raises ValueError for what is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        literals = _VARIABLE.split(text)  # literal, name, literal, name, ... literal
        self.variables = tuple(literals[1::2])
        if not text.startswith("/") or any(sign in "".join(literals[::2]) for sign in "{}*"):
            raise ValueError(f"{text} is no path template that is understood here: use {{name}} for a whole segment")
        pattern = ""
        for position, part in enumerate(literals):
            if position % 2 == 0:
                pattern += re.escape(part)
            else:
                # After the last slash a colon begins the verb, so that {run_id} takes no "x:watch".
                is_last = "/" not in "".join(literals[position + 1 :: 2])
                pattern += "([^/:]+)" if is_last else "([^/]+)"
        self._pattern = re.compile(pattern)

    def match(self, raw_path: str) -> dict[str, str] | None:
        """Return the variables' values in a path whose segments are still percent-encoded; None: another path.

        Raises UnicodeDecodeError for what is not UTF-8.
        """
        found = self._pattern.fullmatch(raw_path)
        if found is None:
            return None
        values = (unquote(value, errors="strict") if "%" in value else value for value in found.groups())
        return dict(zip(self.variables, values, strict=True))

    def expand(self, values: Mapping[str, str]) -> str:
        """Return the path with `values` in it."""
        return _VARIABLE.sub(lambda found: quote(values[found[1]], safe=""), self.text)

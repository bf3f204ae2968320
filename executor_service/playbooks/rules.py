"""The rules engine: applies a project's rules to a suggestion, and computes the hash that names the rules."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from google.protobuf import json_format
from playbooks.runs.v1.run_pb2 import PlaybookRules

from executor_service.playbooks.formula import without_formula
from executor_service.playbooks.likeness import cut, likeness, replace_alike
from servicekit.blanks import is_blank

DEFAULT_MODE = "enforce"

TRIMMED_TO_MAX_LENGTH = "trimmed_to_max_length"
FORBIDDEN_PHRASE_DETECTED = "forbidden_phrase_detected"


@dataclass(frozen=True, slots=True)
class FindReplace:
    """Literal text to find, and what to put in its place."""

    find: str
    replace: str = ""
    case_sensitive: bool = False

    def apply_to(self, text: str) -> str:
        """Return `text` with every occurrence replaced; an empty `find` occurs nowhere."""
        if not self.find:
            return text
        if self.case_sensitive:
            return text.replace(self.find, self.replace)
        if not (self.find.isascii() and text.isascii()):
            return replace_alike(text, self.find, self.replace)
        # A function as replacement, because backslashes in it are to stand for themselves.
        return re.sub(re.escape(self.find), lambda _: self.replace, text, flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules as a request or a draft states them; unset values are empty."""

    enabled: bool = False
    find_replace: FindReplace | None = None
    prefix: str = ""
    suffix: str = ""
    max_length: int = 0  # characters; 0: no limit
    forbidden_phrases: tuple[str, ...] = ()
    mode: str = DEFAULT_MODE

    @classmethod
    def from_message(cls, message: PlaybookRules) -> Self:
        """Read rules as they come in requests; an empty message means no rules."""
        found = message.find_replace
        return cls(
            enabled=message.enabled,
            find_replace=FindReplace(found.find, found.replace, found.case_sensitive) if found.find else None,
            prefix=message.prefix,
            suffix=message.suffix,
            max_length=max(message.max_length, 0),
            forbidden_phrases=tuple(message.forbidden_phrases),
            mode=message.mode or DEFAULT_MODE,
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read rules as drafts store them; raise json_format.ParseError for anything else."""
        return cls.from_message(json_format.ParseDict(dict(document), PlaybookRules()))

    def to_message(self) -> PlaybookRules:
        """Return the rules as requests carry them."""
        return json_format.ParseDict(self.normalized(), PlaybookRules())

    def normalized(self) -> dict[str, Any]:
        """Return the JSON document that rules of one meaning share: the one drafts store and the hash names."""
        document: dict[str, Any] = {"enabled": self.enabled, "mode": self.mode or DEFAULT_MODE}
        if self.find_replace and self.find_replace.find:
            document["findReplace"] = {
                "find": self.find_replace.find,
                "replace": self.find_replace.replace,
                "caseSensitive": self.find_replace.case_sensitive,
            }
        if self.prefix:
            document["prefix"] = self.prefix
        if self.suffix:
            document["suffix"] = self.suffix
        if self.max_length > 0:
            document["maxLength"] = self.max_length
        if phrases := [phrase for phrase in self.forbidden_phrases if phrase]:
            document["forbiddenPhrases"] = phrases
        return document


class RuledText(NamedTuple):
    """A suggestion after the rules, with what a person should know about it."""

    text: str
    warnings: tuple[str, ...] = ()


def rules_hash(rules: Rules) -> str:
    """Return the 16 hex digits that name rules of this meaning.

    Part of the contract with callers, who keep it between calls: the formula must not change.
    """
    canonical = json.dumps(rules.normalized(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def apply(rules: Rules, text: str, *, field_limit: int) -> RuledText:
    """Put a provider's suggestion through the rules, in the order of the contract.

    More than the `field_limit` characters that its field takes is cut off like what is beyond `max_length`; no cut
    divides what is one character to a person. A blank
    suggestion stays blank: a prefix in front of nothing would be written to the shop as if it were one.
    """
    if not rules.enabled or is_blank(text):
        return RuledText(text)
    if rules.find_replace:
        replaced = rules.find_replace.apply_to(text)
        if replaced != text and rules.find_replace.replace == without_formula(rules.find_replace.replace):
            replaced = without_formula(replaced)  # what stood behind the replaced words may begin the text now
        text = replaced
        if is_blank(text):
            return RuledText(text)
    text = f"{rules.prefix}{text}{rules.suffix}"

    warnings = []
    room = min(rules.max_length, field_limit) if rules.max_length > 0 else field_limit
    if len(text) > room:
        text = cut(text, room)
        warnings.append(TRIMMED_TO_MAX_LENGTH)
    if rules.forbidden_phrases and _has_forbidden(rules, text):
        warnings.append(FORBIDDEN_PHRASE_DETECTED)
    return RuledText(text, tuple(warnings))


def _has_forbidden(rules: Rules, text: str) -> bool:
    folded = likeness(text)
    return any(like in folded for phrase in rules.forbidden_phrases if (like := likeness(phrase)))

"""Takes the client's files from where they stand: in the repository around this folder, or in an unpacked sdist."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SourcesHook(BuildHookInterface):
    """Adds the `folders` and `modules` of its configuration to what is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fill `force_include` of a wheel or an sdist; an editable installation finds the files where they are."""
        if version == "editable":
            return
        here = Path(self.root)
        source = here if (here / "gen").is_dir() else here.parent
        for name in (*self.config["folders"], *self.config["modules"]):
            packed = name if self.target_name == "sdist" else name.removeprefix("gen/")
            build_data["force_include"][str(source / name)] = packed

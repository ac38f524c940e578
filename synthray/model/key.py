"""The key of an endpoint: where this machine has it; it stands in no recipe, run or job."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from synthray.errors import InputError


@dataclass(frozen=True)
class Key:
    """A key in the environment variable `env` or in the file `file`; with neither there is none.

    The file holds the key and nothing else. It is read by the process that calls, on the node where it runs,
    so that its path is absolute or begins with ~.
    """

    env: str | None = None
    file: str | None = None

    def check(self) -> None:
        """Raise an InputError, which never repeats a key, when this machine does not have it."""
        if self.env and self.file:
            raise InputError("model: name the key by api_key_env or by api_key_file, not by both")
        if self.file:
            self._check_file(self.file)
        if self.env and not os.environ.get(self.env, "").strip():
            self._refuse_variable(self.env)

    def read(self) -> str:
        """Return the key as this machine holds it now, or an empty text."""
        if self.file:
            return Path(self.file).expanduser().read_text(encoding="utf-8").strip()
        return os.environ.get(self.env, "").strip() if self.env else ""

    def _check_file(self, file: str) -> None:
        if not file.startswith(("/", "~/")):
            # It may be the key itself, so the message does not repeat it.
            raise InputError(
                "model: api_key_file must be a path that every node has, such as /run/secrets/key or ~/.key"
            )
        try:
            words = self.read().split()
        except (OSError, UnicodeDecodeError, RuntimeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise InputError(f"model: api_key_file {file} cannot be read: {why}") from None
        if len(words) != 1:
            found = "is empty" if not words else "holds more than one word"
            raise InputError(f"model: api_key_file {file} {found}; it holds the key and nothing else")

    def _refuse_variable(self, name: str) -> None:
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            # It may be the key itself, so the message does not repeat it.
            raise InputError(
                "model: api_key_env must be the name of an environment variable that is set, not a key"
            )
        raise InputError(
            f"model: the environment variable {name} is not set; export {name}=... "
            "or name another by api_key_env, or a file by api_key_file"
        )

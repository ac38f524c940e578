"""Any OpenAI-compatible endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from synthray.errors import InputError
from synthray.model.key import Key
from synthray.model.language import Complete, Language
from synthray.model.wire import Wire

_OWN = "https://api.openai.com/v1"
_OWN_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class OpenAI(Language):
    """Completions of the model `name` at `base_url` (default: OpenAI's own).

    The key is read from the environment variable `api_key_env` or from the file `api_key_file` by the process
    that calls, on the node where it runs, and is written nowhere. `OPENAI_API_KEY` is the default for
    OpenAI's own endpoint and goes to no other; another `base_url` names a variable or a file of its own or is
    called without a key. `send_seed` passes each draw's seed, which some endpoints refuse.
    """

    name: str = ""
    base_url: str | None = None
    api_key_env: str | None = None
    api_key_file: str | None = None
    send_seed: bool = False

    @property
    def lacks(self) -> frozenset[str]:
        """OpenAI's own takes an assistant's last message for a turn that is over."""
        return frozenset({"prefill"}) if self._own else frozenset()

    @property
    def _own(self) -> bool:
        """Whether it is OpenAI's own endpoint, named or not."""
        return self.base_url is None or self.base_url.startswith("https://api.openai.com/")

    def identity(self) -> dict[str, Any]:
        """Return the model's name and where it is served."""
        return {**super().identity(), "name": self.name, "base_url": self.base_url}

    def check(self) -> None:
        """Raise an InputError when the name is missing or the key is not on this machine."""
        if not self.name:
            raise InputError("model: openai needs name, such as name: gpt-5-mini")
        if self.base_url is not None:
            self._check_url(self.base_url)
        self._key().check()

    def _check_url(self, base_url: str) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InputError(f"model: base_url must start with http:// or https://: {base_url!r}")
        if "@" in base_url:
            raise InputError("model: base_url must hold no user or password; name a key by api_key_env")
        try:
            parts = urlsplit(base_url)
            reached = bool(parts.hostname) and parts.port != 0
        except ValueError:
            reached = False
        if not reached:
            raise InputError(
                f"model: base_url must name a host, such as http://localhost:8000/v1: {base_url!r}"
            )
        if self.api_key_env == _OWN_KEY and not self._own:
            raise InputError(
                f"model: {_OWN_KEY} goes to OpenAI alone, not to {base_url}; put that endpoint's key into a "
                "variable of its own and name it by api_key_env"
            )

    def open(self) -> Complete:
        """Connect on first use."""
        address, key = self._address()
        return Wire(
            address,
            self.name,
            key=key,
            timeout_s=self.timeout_s,
            send_seed=self.send_seed,
            # OpenAI's own newer models refuse the older name.
            limit_name="max_completion_tokens" if self._own else "max_tokens",
        ).complete

    def _address(self) -> tuple[str, str]:
        """Return where the endpoint is, and the key as this machine holds it now."""
        return self.base_url or _OWN, self._key().read()

    def _key(self) -> Key:
        given = self.api_key_env or self.api_key_file or self.base_url
        return Key(self.api_key_env, self.api_key_file) if given else Key(_OWN_KEY)

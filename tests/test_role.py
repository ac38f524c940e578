"""A role is checked as a recipe sets it, and sees itself as the assistant."""

from __future__ import annotations

import pytest

from synthray.errors import InputError
from synthray.role import Role

SAID = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"))]


@pytest.mark.parametrize(
    ("name", "seen"),
    [("user", ["assistant", "user", "assistant"]), ("assistant", ["user", "assistant", "user"])],
)
def test_to_a_side_it_is_the_assistant_and_the_other_the_user(name: str, seen: list[str]) -> None:
    role = Role.of(name, {"temperature": 0.5, "max_tokens": 9, "stop": ["."]})
    told = {"role": "system", "content": "s"}
    request = role.request([told], SAID)
    assert list(request.messages) == [
        told,
        *({"role": one, "content": text} for one, text in zip(seen, "abc", strict=True)),
    ]
    assert (request.temperature, request.max_tokens, request.stop) == (0.5, 9, (".",))
    assert [one["role"] for one in SAID] == ["user", "assistant", "user"], "what was said stays as it is"


def test_its_templates_are_those_that_are_set() -> None:
    assert Role.of("user", {}).templates() == ()
    assert Role.of("user", {"system": "a", "template": "b"}).templates() == ("a", "b")


def test_a_setting_that_it_has_not_or_that_is_wrong_is_named() -> None:
    with pytest.raises(InputError, match="user: no setting 'sistem'; did you mean 'system'"):
        Role.of("user", {"sistem": "x"})
    with pytest.raises(InputError, match="assistant: no setting 'template'"):
        Role.of("assistant", {"template": "x"}, "template")
    with pytest.raises(InputError, match="user: no setting 'name'"):
        Role.of("user", {"name": "x"})
    with pytest.raises(InputError, match=r"user: top_p should be less than or equal to 1, but is 1\.5"):
        Role.of("user", {"top_p": 1.5})
    assert Role.of("user", {"max_tokens": None, "temperature": 0}).max_tokens is None

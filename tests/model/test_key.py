from pathlib import Path

import pytest

from synthray.errors import InputError
from synthray.model.key import Key


def test_a_key_is_read_where_this_machine_has_it_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    for held in ("secret-1", "  secret-2\n"):
        file.write_text(held)
        monkeypatch.setenv("ACME_KEY", held)
        for key in (Key(file=str(file)), Key(env="ACME_KEY")):
            key.check()
            assert key.read() == held.strip()
    assert Key().read() == ""
    Key().check()


def test_a_home_is_that_of_who_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".key").write_text("secret-1\n")
    Key(file="~/.key").check()
    assert Key(file="~/.key").read() == "secret-1"


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"secret-1 secret-2", "holds more than one word"),
        (b"\xff\xfe\x00", "it is no text"),
    ],
)
def test_a_file_without_one_key_is_refused_and_not_repeated(
    tmp_path: Path, held: bytes | None, message: str
) -> None:
    file = tmp_path / "key"
    if held is not None:
        file.write_bytes(held)
    with pytest.raises(InputError, match=message) as caught:
        Key(file=str(file)).check()
    assert "secret" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("file", ["sk-proj-Ab12", "key.txt", "./key"])
def test_a_key_in_place_of_its_file_is_refused_and_not_repeated(file: str) -> None:
    with pytest.raises(InputError, match="must be a path that every node has") as caught:
        Key(file=file).check()
    assert file not in str(caught.value)


def test_one_place_is_enough() -> None:
    with pytest.raises(InputError, match="not by both"):
        Key("ACME_KEY", "/run/key").check()

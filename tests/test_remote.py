"""Files of a run on a real S3 server: fetched where they are named, put once, whole or not at all."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from synthray.remote import Remote
from synthray.table import Table

if TYPE_CHECKING:
    from objects import ObjectStore


@pytest.fixture
def remote(bucket_url: str) -> Iterator[Remote]:
    held = Remote.of(bucket_url)
    yield held
    shutil.rmtree(held.folder)


def written(remote: Remote, name: str, text: str = "x") -> Path:
    path = remote.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def moved(remote: Remote) -> None:
    """Take all away that is here, as on another machine."""
    shutil.rmtree(remote.folder)
    remote.folder.mkdir()


@dataclass(frozen=True)
class Holder:
    table: Table
    folder: Path

    def method(self) -> None:
        """Do nothing."""


def test_what_is_named_anywhere_is_put_and_fetched(remote: Remote, tmp_path: Path) -> None:
    names = ["stages/a/rows.parquet", "stages/a/more.parquet", "b.arrow", "artifacts/made/one.arrow"]
    paths = [written(remote, name, name) for name in names]
    written(remote, "stages/a/other.parquet")
    elsewhere = tmp_path / "mine.parquet"
    elsewhere.write_text("not the run's")
    table = Table((str(paths[0]), str(elsewhere)), "parquet", ((str(paths[1]),),))
    remote.put(remote.folder / "artifacts" / "made", folders=True)
    held = [functools.partial(Holder(table, remote.folder / "artifacts" / "made").method), {"x": (paths[2],)}]
    remote.put(held)
    assert remote.bucket.names() == sorted([*names, "artifacts/made.whole"])
    moved(remote)
    remote.fetch(held)
    found = {str(path.relative_to(remote.folder)) for path in remote.folder.rglob("*") if path.is_file()}
    assert found - {"artifacts/made.whole"} == set(names)
    assert [path.read_text() for path in paths] == names


def test_what_is_there_already_is_not_asked_for_again(remote: Remote, object_store: ObjectStore) -> None:
    path = written(remote, "a.parquet")
    remote.put(path)
    object_store.fault()
    remote.put([path, str(path)])
    remote.fetch(path)
    assert object_store.counts() == {}
    path.write_text("changed")
    remote.put(path)
    assert remote.bucket.read("a.parquet") == b"changed"


def test_a_folder_holds_what_it_held_when_it_was_put_and_nothing_of_an_abandoned_attempt(
    remote: Remote,
) -> None:
    folder = remote.folder / "artifacts" / "made"
    remote.bucket.write("artifacts/made/part-abandoned.arrow", b"x")
    assert not remote.holds(folder)
    written(remote, "artifacts/made/part-1.arrow")
    remote.put(folder, folders=True)
    moved(remote)
    assert remote.holds(folder)
    assert [path.name for path in folder.iterdir()] == ["part-1.arrow"]


def test_a_folder_that_is_replaced_keeps_nothing_of_the_old_one(remote: Remote) -> None:
    for name in ("dataset/data/old.parquet", "dataset/README.md", "datasets/other.parquet"):
        remote.bucket.write(name, b"old")
    written(remote, "dataset/README.md", "new")
    written(remote, "dataset/data/new.parquet")
    remote.replace_folder(remote.folder / "dataset")
    assert remote.bucket.names() == [
        "dataset/README.md",
        "dataset/data/new.parquet",
        "datasets/other.parquet",
    ]
    assert remote.bucket.read("dataset/README.md") == b"new"


def test_what_is_lacking_is_found_by_one_listing_a_folder(remote: Remote, object_store: ObjectStore) -> None:
    for number in range(30):
        remote.bucket.write(f"stages/a/rows-{number}.parquet", b"x")
    listed = [f"stages/a/rows-{number}.parquet" for number in range(31)]
    object_store.fault()
    assert remote.lacks(listed) == ["stages/a/rows-30.parquet"]
    assert sum(object_store.counts().values()) <= 2


def test_the_folder_of_a_run_that_was_killed_on_this_machine_is_removed(
    remote: Remote, bucket_url: str
) -> None:
    program = (
        "import os, sys; from synthray.remote import Remote\n"
        "print(Remote.of(sys.argv[1]).folder, flush=True); os.kill(os.getpid(), 9)"
    )
    arguments = [sys.executable, "-c", program, bucket_url]
    left = Path(subprocess.run(arguments, capture_output=True, text=True, check=False).stdout.strip())
    assert left.is_dir()
    again = Remote.of(bucket_url)
    assert not left.exists()
    assert remote.folder.is_dir(), "a living process's is left alone"
    shutil.rmtree(again.folder)


def test_a_key_of_the_store_travels_with_nothing(remote: Remote) -> None:
    import pickle

    sent = pickle.dumps(remote)
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in sent
    assert json.dumps(pickle.loads(sent).url) == json.dumps(remote.url)

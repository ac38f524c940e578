"""Requests to a real S3 server on loopback, which fails, is slow, cuts its answers, refuses and is full."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from synthray import bucket as bucket_module
from synthray.bucket import Bucket, is_url
from synthray.errors import RunError, RunFailed

if TYPE_CHECKING:
    from objects import ObjectStore


@pytest.fixture
def bucket(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(bucket_module, "_PAUSE_S", 0.001)
    return Bucket(bucket_url)


def test_a_url_is_no_path() -> None:
    assert is_url("s3://bucket/run")
    assert not is_url(Path("runs/s3:/bucket"))


def test_what_is_written_is_read_listed_and_removed(bucket: Bucket, tmp_path: Path) -> None:
    bucket.write("a/one", b"1")
    bucket.write("a/deep/two", b"2")
    bucket.write("b", b"3")
    assert (bucket.read("a/one"), bucket.read("a/none")) == (b"1", None)
    assert (bucket.names(), bucket.names("a")) == (["a/deep/two", "a/one", "b"], ["a/deep/two", "a/one"])
    assert bucket.fetch("a/deep/two", tmp_path / "two")
    assert not bucket.fetch("none", tmp_path / "none")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"two": b"2"}
    bucket.remove(["a/one", "none"])
    assert (bucket.names("a"), bucket.names("c")) == (["a/deep/two"], [])


def test_another_process_is_seen_at_once(bucket: Bucket) -> None:
    other = Bucket(bucket.url)
    assert bucket.names() == []
    other.write("new", b"1")
    assert bucket.names() == ["new"]
    other.write("new", b"2")
    assert bucket.read("new") == b"2"


def test_of_many_that_create_an_object_one_does(bucket: Bucket) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: bucket.create("lock", str(number).encode()), range(8)))
    assert made.count(True) == 1
    assert bucket.read("lock") == str(made.index(True)).encode()


def test_what_fails_now_and_then_is_tried_again_until_it_is_whole(
    bucket: Bucket, object_store: ObjectStore, tmp_path: Path
) -> None:
    content = os.urandom(200_000)
    object_store.fault(fail=0.1, cut=0.15, slow=0.002)
    for number in range(20):
        bucket.write(f"part-{number}", content)
        assert bucket.fetch(f"part-{number}", tmp_path / "part")
        assert (tmp_path / "part").read_bytes() == content
    assert len(bucket.names()) == 20
    assert object_store.counts()["hit"] > 5


def test_a_large_file_goes_in_parts(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "_PART", 5 << 20)
    (tmp_path / "large").write_bytes(os.urandom(11 << 20))
    bucket.put("large", tmp_path / "large")
    assert bucket.fetch("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()


def test_a_store_that_does_not_answer_is_said_with_what_was_asked(
    bucket: Bucket, object_store: ObjectStore
) -> None:
    object_store.fault(fail=1.0)
    with pytest.raises(
        RunFailed, match=r"s3://bucket/.*/name cannot be written after 6 attempts: .*SlowDown"
    ):
        bucket.write("name", b"1")
    assert object_store.counts()["PUT"] == 6
    object_store.fault(full=True)
    with pytest.raises(RunFailed, match=r"InsufficientStorage by the test; what was kept there stays"):
        bucket.write("name", b"1")


def test_what_no_attempt_cures_is_said_at_once(bucket: Bucket, object_store: ObjectStore) -> None:
    with pytest.raises(RunError, match=r"s3://missing/run: there is no bucket 'missing'; create it"):
        Bucket("s3://missing/run").write("name", b"1")
    object_store.fault(deny=["PUT"])
    with pytest.raises(RunError, match=r"name cannot be written: the store refuses this key .*right to list"):
        bucket.write("name", b"1")
    assert object_store.counts()["PUT"] == 1


def test_a_kind_of_store_that_there_is_not_is_refused() -> None:
    with pytest.raises(RunError, match="no such kind of store: Protocol not known: nowhere"):
        Bucket("nowhere://bucket/run").read("name")

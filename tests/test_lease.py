"""Who may write below a URL, on a real S3 server: one process, until it ends or is not heard of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from synthray import lease as lease_module
from synthray.bucket import Bucket
from synthray.errors import RunError, RunFailed
from synthray.lease import Lease

OF_ANOTHER = {"host": "far", "machine": "another", "pid": 7}


@pytest.fixture
def bucket(bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(lease_module, "BEAT_S", 0.1)
    monkeypatch.setattr(lease_module, "LOST_S", 1.0)
    return Bucket(bucket_url)


def test_a_second_writer_is_refused_until_the_first_releases(bucket: Bucket) -> None:
    first, second = Lease(bucket), Lease(bucket)
    first.take()
    with pytest.raises(RunError, match=rf"another process is writing s3://.* \(process {os.getpid()} on "):
        second.take()
    first.release()
    assert bucket.names() == []
    second.take()
    second.release()


def test_of_many_that_begin_at_once_one_writes(bucket: Bucket) -> None:
    leases = [Lease(bucket) for _ in range(6)]
    start = threading.Barrier(len(leases))

    def takes(lease: Lease) -> bool:
        start.wait()
        try:
            lease.take()
        except RunError:
            return False
        return True

    with ThreadPoolExecutor(len(leases)) as pool:
        assert list(pool.map(takes, leases)).count(True) == 1
    for lease in leases:
        lease.release()


def test_a_writer_of_this_machine_that_was_killed_is_followed_at_once(bucket: Bucket) -> None:
    program = (
        "import sys, time; from synthray.bucket import Bucket; from synthray.lease import Lease\n"
        "Lease(Bucket(sys.argv[1])).take(); print('taken', flush=True); time.sleep(600)"
    )
    arguments = [sys.executable, "-c", program, bucket.url]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        process.kill()
    started = time.monotonic()
    lease = Lease(bucket)
    lease.take()
    assert time.monotonic() - started < lease_module.LOST_S
    assert bucket.names() == ["lock/000002.json"], "the killed one's number is not used again"
    lease.release()


def test_a_writer_of_another_machine_is_followed_when_it_is_not_heard_of(bucket: Bucket) -> None:
    bucket.write("lock/000004.json", json.dumps(OF_ANOTHER).encode())
    lease = Lease(bucket)
    lease.take()
    assert lease.number == 5
    lease.release()


def test_a_writer_of_another_machine_that_is_heard_of_is_not(bucket: Bucket) -> None:
    end = threading.Event()

    def beats() -> None:
        number = 0
        while not end.wait(0.1):
            number += 1
            bucket.write("lock/000004.json", json.dumps({**OF_ANOTHER, "beats": number}).encode())

    bucket.write("lock/000004.json", json.dumps(OF_ANOTHER).encode())
    beating = threading.Thread(target=beats)
    beating.start()
    try:
        with pytest.raises(RunError, match=r"\(process 7 on far\)"):
            Lease(bucket).take()
    finally:
        end.set()
        beating.join()


def test_one_that_was_overtaken_commits_nothing_any_more(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(bucket)
    lease.take()
    lease.check()
    bucket.write("lock/000002.json", json.dumps(OF_ANOTHER).encode())  # while this one slept
    monkeypatch.setattr(lease_module, "LOST_S", 0.0)
    with pytest.raises(RunFailed, match="another one writes the run now; nothing of this one's is committed"):
        lease.check()
    lease.release()
    assert bucket.names() == ["lock/000002.json"]

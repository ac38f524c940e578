"""How much memory the processes hold that a benchmark starts."""

from __future__ import annotations

import threading

import psutil


class Peak:
    """The largest memory that any process started by this one held, seen ten times a second."""

    def __init__(self) -> None:
        self.workers = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                try:
                    self.workers = max(self.workers, process.memory_info().rss)
                except psutil.Error:
                    continue

"""The processes that ask a model: as many as it keeps busy, each with many blocks of rows at a time."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from synthray import cluster
from synthray.model.limits import share

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from synthray.model.language import Language
    from synthray.operator import Operator

_ROWS_PER_WORKER = 64
_LEAST_ROWS, _MOST_ROWS = 16, 512
_BLOCKS = 16
"""A block waits for its slowest row, the wire must not: so many blocks are worked on at a time."""


class Lone:
    """The one process that asks for all stages of a run that have few rows: it begins with the first of them.

    To begin one for each stage would take longer than to ask for a few rows; and with it its model's server.
    """

    def __init__(self) -> None:
        self._actor: Any = None

    def ask(self, function: Callable[[pa.Table], pa.Table], dataset: Dataset) -> Dataset:
        """Return the dataset that `function` makes of all rows at once."""
        import ray
        import ray.data

        if self._actor is None:
            actor = ray.remote(_Lone).options(num_cpus=0, max_restarts=-1, max_task_retries=2)
            self._actor = actor.remote()
        made = self._actor.ask.remote(function, *dataset.to_arrow_refs())
        return ray.data.from_arrow_refs([made])

    def close(self) -> None:
        """Let the process end."""
        self._actor = None


class _Lone:
    def ask(self, function: Callable[[pa.Table], pa.Table], *tables: pa.Table) -> pa.Table:
        import pyarrow as pa

        return function(pa.concat_tables(tables))


class Worker:
    """Holds an operator that asks a model in a process of its own."""

    def __init__(self, function: Callable[[pa.Table], pa.Table]) -> None:
        self._function = function

    def __call__(self, table: pa.Table) -> pa.Table:
        """Run it on a block."""
        return self._function(table)


@dataclass(frozen=True)
class Pool:
    """How `rows` rows are asked for; `calls` is RUN/calls. `blocks`, when set, is how the rows are cut.

    Rows that one process asks for are asked for by the run's `lone` one.
    """

    calls: str
    rows: int
    blocks: int | None
    lone: Lone
    held: list[Any] = field(default_factory=list)
    """The limiters of the stage, one a model: they end when nobody holds them. Each stage has its own, since
    what was spent and sent between them, by other models' names too, stands in the calls."""

    def map(
        self, dataset: Dataset, operator: Operator, function: Callable[[Operator], Callable[..., Any]]
    ) -> Dataset:
        """Return the dataset that `function` of the operator makes of each block."""
        import ray.data

        cores, nodes = cluster.cores(), cluster.nodes()
        context = operator.context
        assert context.language is not None, f"{operator.step} has no model"
        language = context.language.on(cores)
        models = {name: held.on(cores) for name, held in context.models.items()}
        most = max(1, self.rows // _ROWS_PER_WORKER)
        workers = min(most, max(held.workers(nodes, cores) for held in (language, *models.values())))
        limiter = self._limiter(language, workers)
        # Two names of one model share its limits.
        limiters = {
            name: limiter if held == language else self._limiter(held, workers)
            for name, held in models.items()
        }
        context = replace(context, language=language, limiter=limiter, models=models, limiters=limiters)
        operator = replace(operator, context=context)
        # What other stages spend and send meanwhile is not known to a process that lasts.
        counted = any(held.counted for held in (language, *models.values()))
        if workers == 1 and not (self.blocks or counted) and self.rows < 2 * _ROWS_PER_WORKER:
            return self.lone.ask(function(operator), dataset)
        if not self.blocks:
            rows = min(_MOST_ROWS, max(_LEAST_ROWS, -(-self.rows // (workers * _BLOCKS))))
            dataset = dataset.repartition(target_num_rows_per_block=rows)
        return dataset.map_batches(
            Worker,
            fn_constructor_args=(function(operator),),
            batch_format="pyarrow",
            batch_size=None,
            zero_copy_batch=True,
            # The model waits or brings its own threads; a CPU of Ray's held here could block the readers.
            num_cpus=0,
            compute=ray.data.ActorPoolStrategy(
                size=workers,
                max_concurrent_calls_per_actor=_BLOCKS,
                max_tasks_in_flight_per_actor=_BLOCKS + 4,
                enable_true_multi_threading=True,
            ),
        )

    def _limiter(self, language: Language, workers: int) -> str:
        """Return the name of a new limiter of a model; one process alone limits itself and needs none."""
        if workers == 1:
            return ""
        name = f"limiter-{uuid.uuid4().hex}"
        self.held.append(share(name, language, self.calls, workers))
        return name

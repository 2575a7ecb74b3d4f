"""Whole batches of tasks adapted at once, exactly, without touching a weight.

The windows of the queries are sorted by length and cut into blocks that fit into memory. For a block: one forward and
backward over those of its distinct supports that the cache does not know gives their factors (`factors.py`); one
forward over the queries with the steps added (`steps.py`) gives the adapted model's logits. A further step of a task
is taken on its own supports, with the steps before in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pymetaner.engine.batched.factors import Layout, WindowFactors, check_adaptable, factors_of
from pymetaner.engine.batched.limits import Limits, split_on_overflow
from pymetaner.engine.batched.steps import Rates, StepRows, TakenSteps
from pymetaner.engine.batched.supports import Key, Row, Supports, key_of, windows_of
from pymetaner.engine.precision import computing_in
from pymetaner.engine.task import Computation, Dropout, InnerStep, Task, Work
from pymetaner.model import MetaNER
from pymetaner.progress import track
from pymetaner.reading import empty_logits
from pymetaner.view import View, borrowed_view
from pymetaner.windows import Batch, Window, make_batch, pack, pad_hidden

__all__ = ["BatchedEngine", "Query", "batched_logits"]


def batched_logits(
    model: MetaNER, tasks: Sequence[Task], inner: InnerStep, computation: Computation, work: Work
) -> list[NDArray[np.floating[Any]]]:
    """Word logits (W, C) of each query, adapted on its own supports.

    Args:
        model: the model; nothing of it is changed.
        tasks: the queries with their supports.
        inner: the inner step.
        computation: batch size, precision, cache and memory.
        work: what was done is added to it.

    Raises:
        SettingError: if there are not as many step sizes as layers, or the precision does not fit the model.
        UnsupportedModelError: if an adapted layer is not a Linear or LayerNorm.
        MemoryLimitError: if a single sentence with its supports does not fit into memory.
    """
    with (
        torch.inference_mode(False),  # a caller's own would leave no gradients
        borrowed_view(model.network, model.settings.freeze_layers) as view,
        torch.no_grad(),
        torch.autocast(model.device.type, enabled=False),  # a caller's own: what is between the passes stays exact
    ):
        rates = inner.rates(view.groups)
        engine = BatchedEngine(model, view, inner, rates, computation, work)
        gathered = empty_logits(model, [task.query for task in tasks])
        for block in track(engine.blocks(tasks), "adapting", computation.progress):
            for part in split_on_overflow(lambda queries: list(engine.run(tasks, queries)), block):
                for batch, logits in part:
                    gathered.add(batch.windows, logits)
        return gathered.rows


@dataclass(frozen=True)
class Query:
    """A window of a task's query and, if known, its hidden states (T, d) after the frozen layers."""

    window: Window
    lower: Tensor | None

    @property
    def task(self) -> int:
        """The index of its task."""
        return self.window.sentence


@dataclass(frozen=True)
class _Step:
    """The factors that each task moves by.

    Attributes:
        windows: those of its supports' windows.
        own: they are of the task's own loss, and not of the losses of supports that tasks share.
    """

    windows: dict[int, list[WindowFactors]]
    own: bool


class BatchedEngine:
    """Runs blocks of tasks on a view of a model.

    Args:
        model: the model.
        view: a view of it that nobody else uses meanwhile.
        inner: the inner step.
        rates: step size of each adapted module; those without one stand still.
        computation: batch size, cache and memory.
        work: what is done is added to it.
        order: 0 for tagging; 1 or 2 for meta-training, where logits have a graph: of first order, in which factors are
            constants, or of second order.
        dropout: where the network's own is on.
    """

    def __init__(
        self,
        model: MetaNER,
        view: View,
        inner: InnerStep,
        rates: Rates,
        computation: Computation,
        work: Work,
        order: int = 0,
        dropout: Dropout = "none",
    ) -> None:
        check_adaptable(view)
        self.model = model
        self.view = view
        self.inner = inner
        self.rates = rates
        self.precision = computation.precision
        self.work = work
        self.order = order
        self.dropout = dropout
        self.cache = None if order else computation.cache
        self.layout = Layout(view, rates.keys(), 2 if inner.lambda_max else 1)
        self.own_layout = Layout(view, rates.keys(), 1)
        self.limits = Limits.of(view, self.layout, computation)
        self.supports = Supports(model)
        self._lower: dict[Row, Tensor] = {}  # what further steps need not compute again
        self._state = (
            view.weights,
            tuple(rates),
            inner.lambda_max > 0,
            computation.precision,
            model.settings,
            model.labels.tags,
        )

    # ---- blocks ----

    def blocks(self, tasks: Sequence[Task]) -> list[list[Query]]:
        """The windows of all queries, sorted by length, in blocks whose supports fit into memory together.

        Raises:
            MemoryLimitError: if the supports of a single task do not.
        """
        self.supports.add(support for task in tasks for support in task.supports)
        queries = []
        for task, group in enumerate(windows_of(self.model, [task.query for task in tasks])):
            lower = tasks[task].lower or [None] * len(group)
            queries += [Query(window, hidden) for window, hidden in zip(group, lower, strict=True)]
        queries.sort(key=lambda query: len(query.window.ids))
        blocks: list[list[Query]] = []
        within: set[Key] = set()
        held = 0
        for query in queries:
            keys = _keys(tasks[query.task])
            alone = self._bytes(keys, set())
            self.limits.check(alone, len(keys))
            more = self._bytes(keys, within)
            if not blocks or len(blocks[-1]) == self.limits.queries or held + more > self.limits.block:
                blocks.append([])
                within, held, more = set(), 0, alone
            blocks[-1].append(query)
            within.update(keys)
            held += more
        return blocks

    def _bytes(self, keys: Sequence[Key], within: set[Key]) -> int:
        """What a task's factors take beside those of a block that holds some supports already."""
        pieces = {key: self.supports.pieces(key) for key in keys}
        new = sum(size for key, size in pieces.items() if key not in within)
        own = sum(pieces[key] for key in keys) * (self.inner.steps - 1)
        return (new + own) * self.limits.piece

    # ---- running ----

    def run(
        self, tasks: Sequence[Task], block: Sequence[Query], edit: Callable[[Batch], Tensor] | None = None
    ) -> Iterator[tuple[Batch, Tensor]]:
        """The queries of a block in padded batches, with their adapted logits (B, T, C).

        Args:
            tasks: all tasks; queries name theirs by its index.
            block: what `blocks` gave, or a part of it.
            edit: gives the pieces (B, T) to read instead of a batch's own: masked ones, in training.
        """
        self._lower.clear()
        keys = {query.task: _keys(tasks[query.task]) for query in block}
        distinct = list(dict.fromkeys(key for group in keys.values() for key in group))
        self._drop(self.dropout == "all")
        steps: list[_Step] = []
        # A shared support passes backward once for each of its losses, a task's own once for both together.
        if not self.order or not self.inner.lambda_max or 2 * sum(map(len, keys.values())) > 3 * len(distinct):
            shared = self._first_step(distinct)
            windows = {task: [window for key in group for window in shared[key]] for task, group in keys.items()}
            steps.append(_Step(windows, own=False))
        while len(steps) < self.inner.steps:
            steps.append(self._own_step(keys, steps))
        self._drop(self.dropout != "none")
        for group in self._groups([query.window for query in block], self.limits.queries):
            queries = [block[i] for i in group]
            batch = make_batch([query.window for query in queries], self.model.pad_id).to(self.model.device)
            ids = batch.input_ids if edit is None else edit(batch)
            lower = pad_hidden([query.lower for query in queries])
            correction = self._correction([query.task for query in queries], steps)
            with torch.set_grad_enabled(self.order > 0), self._computing():
                if lower is None:
                    lower = self.view.lower(ids, batch.attention_mask)
                logits = self.view.upper(ids, batch.attention_mask, lower, correction)
            self.work.batches += 1
            self.work.pieces += sum(len(query.window.ids) for query in queries)
            self.work.padded += ids.numel()
            yield batch, logits

    def own_first_steps(self, tasks: Sequence[Task], most: int) -> Iterator[StepRows | None]:
        """The factors of each task's own loss in the model as it stands; None of a task without supports.

        Args:
            tasks: the tasks.
            most: pieces of supports that are computed, and kept, together; a task that has more is by itself.
        """
        self.supports.add(support for task in tasks for support in task.supports)
        self._drop(self.dropout == "all")
        together: dict[int, list[Key]] = {}
        held = 0
        for i, task in enumerate(tasks):
            keys = _keys(task)
            pieces = sum(map(self.supports.pieces, keys))
            if together and held + pieces > most:
                yield from self._own_rows(together)
                together, held = {}, 0
            together[i] = keys
            held += pieces
        yield from self._own_rows(together)

    def _own_rows(self, keys: dict[int, list[Key]]) -> Iterator[StepRows | None]:
        for windows in self._own_step(keys, []).windows.values():
            yield self._rows_of([windows], own=True) if windows else None

    def _first_step(self, keys: Sequence[Key]) -> dict[Key, list[WindowFactors]]:
        """The factors of distinct supports in the model as it stands, from the cache where it knows them."""
        found: dict[Key, list[WindowFactors]] = {}
        for key in keys:
            known = None if self.cache is None else self.cache.get(self._state, key)
            if known is not None:
                found[key] = known
        computed: dict[Key, list[WindowFactors]] = {key: [] for key in keys if key not in found}
        rows = self.supports.rows(computed)
        for (key, _), factors in zip(rows, self._factors(rows), strict=True):
            computed[key].append(factors)
        found |= computed if self.cache is None else self.cache.put(self._state, computed)
        self.work.supports += len(keys)
        self.work.cached += len(keys) - len(computed)
        return found

    def _own_step(self, keys: dict[int, list[Key]], steps: Sequence[_Step]) -> _Step:
        """The factors of every task's own supports, in the model as the task has adapted it so far."""
        rows = [(task, row) for task, group in keys.items() for row in self.supports.rows(group)]
        pieces, count = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)
        for task, row in rows:
            pieces[task] += self.supports.window(row).labelled(self.model.words.others)
            count[task] += 1
        weights = [(1 / max(1, pieces[task]), self.inner.lambda_max / count[task]) for task, _ in rows]
        found: dict[int, list[WindowFactors]] = {task: [] for task in keys}
        computed = self._factors(
            [row for _, row in rows], weights, lambda group: self._correction([rows[i][0] for i in group], steps)
        )
        for (task, _), factors in zip(rows, computed, strict=True):
            found[task].append(factors)
        return _Step(found, own=True)

    def _factors(
        self,
        rows: Sequence[Row],
        weights: Sequence[tuple[float, float]] | None = None,
        correction: Callable[[list[int]], TakenSteps | None] = lambda group: None,
    ) -> list[WindowFactors]:
        """The factors of some support windows, each in the network corrected for it.

        Args:
            rows: the windows.
            weights: of the losses of each, where they are of its task's own loss (`factors_of`).
            correction: gives what corrects the network for a group of rows.
        """
        found: dict[int, WindowFactors] = {}
        windows = [self.supports.window(row) for row in rows]
        for group in self._groups(windows, len(windows)):
            # Labels are looked up by the sentence of a window, which here is its place in the group.
            placed = [replace(windows[i], sentence=place) for place, i in enumerate(group)]
            batch = make_batch(placed, self.model.pad_id).to(self.model.device)
            labels = batch.labels([self.supports.tag_ids(rows[i]) for i in group], self.model.words.others)
            lower = pad_hidden([self._lower.get(rows[i]) for i in group])
            with self._computing():
                if lower is None:
                    lower = self.view.lower(batch.input_ids, batch.attention_mask)
                    # With dropout, a further step draws other hidden states.
                    if lower is not None and self.inner.steps > 1 and not self.view.network.training:
                        for place, i in enumerate(group):
                            self._lower[rows[i]] = lower[place, : len(windows[i].ids)]
                factors = factors_of(
                    self.view,
                    self.layout if weights is None else self.own_layout,
                    batch,
                    labels,
                    lower,
                    weights=None if weights is None else [weights[i] for i in group],
                    correction=correction(group),
                    differentiable=self.order == 2,
                )
            found.update((i, WindowFactors(factors, place)) for place, i in enumerate(group))
        return [found[i] for i in range(len(rows))]

    @contextmanager
    def _computing(self) -> Iterator[None]:
        # The fused attention kernels cannot be differentiated twice.
        twice = sdpa_kernel(SDPBackend.MATH) if self.order == 2 else nullcontext()
        with computing_in(self.precision, self.view.network), twice:
            yield

    def _drop(self, on: bool) -> None:
        if self.view.network.training != on:  # going through all modules takes as long as a layer
            self.view.network.train(on)

    def _groups(self, windows: Sequence[Window], most: int) -> list[list[int]]:
        """Indices of windows that pass together."""
        return pack(
            [len(window.ids) for window in windows],
            1 if self.view.one_by_one else most,
            pieces=self.limits.pieces,
            overhead=self.model.pass_overhead,
        )

    def _correction(self, row_tasks: Sequence[int], steps: Sequence[_Step]) -> TakenSteps | None:
        """What adds the steps of their tasks to the rows of a batch; None if no task takes one."""
        if not steps or not any(steps[0].windows[task] for task in row_tasks):
            return None
        taken = [self._rows_of([step.windows[task] for task in row_tasks], step.own) for step in steps]
        return TakenSteps(taken, self.rates, self.inner.optimizer, self.view.source)

    def _rows_of(self, windows: Sequence[Sequence[WindowFactors]], own: bool) -> StepRows:
        weight = next(self.view.network.parameters())
        return StepRows(self.own_layout if own else self.layout, windows, self.inner.lambda_max, weight, weighted=own)


def _keys(task: Task) -> list[Key]:
    return [key_of(support) for support in task.supports]

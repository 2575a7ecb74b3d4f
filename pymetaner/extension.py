"""New entity types from a few labelled sentences: rows added to the head, everything else as it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pymetaner.checks import check_model, whole
from pymetaner.errors import EmptyDataError, UnsupportedModelError
from pymetaner.model import MetaNER
from pymetaner.network import adapted_modules, forward, head_of, weight_sharing_copy
from pymetaner.reading import batches
from pymetaner.sentence import Sentence, check_sentences
from pymetaner.windows import WordRows, make_batch

__all__ = ["extend"]

_DECAY = 0.1  # of the new rows: better than 0.03, 0.3 and 1 on Spanish MISC (benchmarks/results/LOG.md)
_BIAS_DECAY = 1e-3  # of their biases: keeps that of a tag that never occurs finite
_REMEMBERED = 256  # sentences of the memory whose entities must stay what they are


@torch.inference_mode(False)  # what is made in a caller's could never be adapted
def extend(model: MetaNER, sentences: Iterable[Sentence], *, batch_size: int = 16) -> MetaNER:
    """A new model that also tags the entity types of some labelled sentences; about 20 teach a first notion of one.

    The logits of the old tags stay what they were, whatever the sentence. Each new tag gets a row in the head, found by
    logistic regression on the words' last hidden states, a convex problem that takes less time than reading the words:
    those of the sentences, and those of the model's memory that are entities, so that the old types stay.

    The new model has a copy of the memory, in RAM, which takes sentences with the new types: add these sentences, and
    `pymetaner.adapt` learns from them too. Frozen weights are shared with the old model, all others are copies.

    Args:
        model: the model; nothing of it is changed.
        sentences: labelled sentences with entities of new types, and with those of the old types labelled too; others
            without the new ones help to tell where they are not.
        batch_size: the most sentences read at once.

    Raises:
        EmptyDataError: if there is no entity of a type that the model does not know.
        LabelSchemeError: if a new type is called ``O``.
        SettingError: if the batch size is out of range, or the model is no `MetaNER`.
        UnsupportedModelError: if the head does not end in a linear layer.

    Example:
        >>> extended = pymetaner.extend(model, sentences)  # doctest: +SKIP
        >>> extended.memory.add(sentences)  # doctest: +SKIP
        >>> extended.save_pretrained("with-drugs")  # doctest: +SKIP
    """
    check_model(model)
    batch_size = whole("batch_size", batch_size, 1)
    labelled = [sentence for sentence in check_sentences(sentences) if sentence.tags]
    types = dict.fromkeys(tag[2:] for sentence in labelled for tag in sentence.tags or () if tag != "O")
    new = [name for name in types if name not in model.types]
    if not new:
        raise EmptyDataError(
            f"the sentences have no entity of a new type: the model knows {', '.join(sorted(model.types))} already; "
            "give labelled sentences with others, or train it further with `pymetaner.train`"
        )
    name, head = _last_layer(model)
    labels = model.labels.with_types(new)
    ids = torch.tensor([tag for sentence in labelled for tag in labels.encode(sentence.tags or ())])
    hidden = _hidden_states(model, labelled, name, head.in_features, batch_size)
    remembered = _remembered(model)
    if remembered:
        known = torch.tensor([tag for sentence in remembered for tag in model.labels.encode(sentence.tags or ())])
        entities = ~torch.isin(known, torch.tensor(model.labels.outside))
        ids = torch.cat([ids, known[entities]])
        hidden = torch.cat([hidden, _hidden_states(model, remembered, name, head.in_features, batch_size)[entities]])
    rows, biases = _new_rows(head, hidden, ids, len(labels.tags))

    with torch.no_grad():
        network = weight_sharing_copy(
            model.network, own=adapted_modules(model.network, model.settings.freeze_layers).values()
        ).requires_grad_()
        wider = nn.utils.skip_init(nn.Linear, head.in_features, len(labels.tags)).to(head.weight)
        wider.weight.copy_(torch.cat([head.weight, rows.to(head.weight)]))
        wider.bias.copy_(torch.cat([head.bias, biases.to(head.bias)]))
    setattr(network, name, wider)
    network.config.id2label = dict(enumerate(labels.tags))
    network.config.label2id = {tag: i for i, tag in enumerate(labels.tags)}
    network.num_labels = len(labels.tags)  # type: ignore[assignment]
    extended = MetaNER(network, model.tokenizer, labels=labels, settings=model.settings)
    extended.source = model.source
    if len(model.memory):
        extended.memory = model.memory.copy_for(extended)
    return extended


def _last_layer(model: MetaNER) -> tuple[str, nn.Linear]:
    """The linear layer that gives the logits, and its name in the network."""
    last = head_of(model.network)[-1]
    name = next(name for name, module in model.network.named_children() if module is last)
    if not isinstance(last, nn.Linear) or last.bias is None or last.out_features != len(model.labels.tags):
        raise UnsupportedModelError(
            f"the head of {type(model.network).__name__} ends in {last}: expected a linear layer with a bias and one "
            "row for each tag; train a model with the new types instead"
        )
    return name, last


def _remembered(model: MetaNER) -> list[Sentence]:
    """Sentences spread over the memory."""
    return list(model.memory.sample(_REMEMBERED).values())


def _hidden_states(model: MetaNER, sentences: Sequence[Sentence], head: str, width: int, batch_size: int) -> Tensor:
    """(words, d) float64: what the last layer of the head reads of each word."""
    network = weight_sharing_copy(model.network)
    setattr(network, head, nn.Identity())
    gathered = WordRows([len(sentence) for sentence in sentences], width, np.float64)
    with torch.inference_mode():
        for windows in batches(model, sentences, batch_size):
            batch = make_batch(windows, model.pad_id).to(model.device)
            gathered.add(windows, forward(network, batch.input_ids, batch.attention_mask)[0])
    return torch.from_numpy(np.concatenate(gathered.rows))


def _new_rows(head: nn.Linear, hidden: Tensor, ids: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weights (new, d) and biases (new,) of the tags behind the old ones.

    They minimise the summed cross-entropy of all tags, the old logits being what they are, + the decay.

    Args:
        head: the old rows.
        hidden: (n, d) float64 of n words.
        ids: (n,) int64 tag of each.
        classes: old tags and new ones.
    """
    old = functional.linear(hidden, *(tensor.detach().cpu().double() for tensor in (head.weight, head.bias)))
    centre = hidden.mean(0)
    centred = hidden - centre
    rows = torch.zeros((classes - old.shape[1], hidden.shape[1]), dtype=torch.float64, requires_grad=True)
    biases = torch.zeros(len(rows), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([rows, biases], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        logits = torch.cat([old, functional.linear(centred, rows, biases)], dim=1)
        decay = _DECAY * rows.square().sum() + _BIAS_DECAY * biases.square().sum()
        value = functional.cross_entropy(logits, ids, reduction="sum") + decay / 2
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return rows.detach(), (biases - rows @ centre).detach()

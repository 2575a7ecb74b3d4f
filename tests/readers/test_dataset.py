"""Hugging Face datasets, and rows that only look like one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pymetaner.errors import DataError, EmptyDataError, LengthMismatchError, TagError
from pymetaner.readers import from_dataset
from pymetaner.sentence import Sentence

datasets = pytest.importorskip("datasets")

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
ROWS = {"tokens": [["Ada", "Lovelace", "slept"], ["Paris"]], "ner_tags": [[1, 2, 0], [3]]}
EXPECTED = [Sentence(("Ada", "Lovelace", "slept"), ("B-PER", "I-PER", "O")), Sentence(("Paris",), ("B-LOC",))]


def labelled(**columns: Any) -> Any:
    tags = datasets.Sequence(datasets.ClassLabel(names=NAMES))
    tokens = datasets.Sequence(datasets.Value("string"))
    features = datasets.Features({name: tags if "tag" in name else tokens for name in columns})
    return datasets.Dataset.from_dict(columns, features=features)


def test_class_labels_and_strings() -> None:
    corpus = from_dataset(labelled(**ROWS))
    assert corpus.sentences == EXPECTED
    assert (corpus.path, corpus.notation) == (None, "IOB2")
    strings = {"words": ROWS["tokens"], "tags": [[NAMES[i] for i in row] for row in ROWS["ner_tags"]]}
    assert from_dataset(datasets.Dataset.from_dict(strings), tokens="words", tags="tags").sentences == EXPECTED


def test_a_streamed_dataset() -> None:
    assert from_dataset(labelled(**ROWS).to_iterable_dataset()).sentences == EXPECTED


def test_splits_are_named() -> None:
    with pytest.raises(DataError, match=r"'train', 'test'.*dataset\['train'\]"):
        from_dataset(datasets.DatasetDict({"train": labelled(**ROWS), "test": labelled(**ROWS)}))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"tokens": ["a"], "tags": ["O"]}], DataError, "row 0: no column 'ner_tags': .*'tokens', 'tags'"),
        ([{"tokens": ["a"], "ner_tags": [1]}], DataError, "row 0: the tag 1 is a number without a name"),
        ([{"tokens": ["a"], "ner_tags": ["O", "O"]}], LengthMismatchError, "row 0: 1 tokens but 2 tags"),
        ([{"tokens": ["a"], "ner_tags": ["O"]}, {"tokens": [], "ner_tags": []}], EmptyDataError, "row 1: there is no"),
        ([{"tokens": ["a"], "ner_tags": ["Q-X"]}], TagError, "row 0: 'Q-X'"),
        ([{"tokens": ["a", None], "ner_tags": ["O", "O"]}], DataError, "row 0: token 1 is None"),
        ([], EmptyDataError, "no rows"),
    ],
)
def test_errors_name_the_row(rows: list[dict[str, Any]], error: type[DataError], message: str) -> None:
    with pytest.raises(error, match=message):
        from_dataset(rows)


def test_a_number_outside_the_names() -> None:
    with pytest.raises(TagError, match="row 0: the tag -1 is outside the 5 names"):
        from_dataset(labelled(tokens=[["a"]], ner_tags=[[-1]]))


def test_tags_of_a_dataset_that_gives_arrays_or_tensors() -> None:
    for kind in ("numpy", "torch"):
        assert from_dataset(labelled(**ROWS).with_format(kind)).sentences == EXPECTED


def test_the_library_is_imported_by_nobody_but_the_caller() -> None:
    code = "import sys, pymetaner.readers as r; assert 'datasets' not in sys.modules; assert r.from_dataset"
    subprocess.run([sys.executable, "-c", code], check=True)

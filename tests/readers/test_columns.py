"""Column files in the dialects that exist, and what is wrong with those that cannot be read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymetaner.errors import DataError, EmptyDataError, SettingError, TagError
from pymetaner.readers import read, write
from pymetaner.sentence import Sentence
from pymetaner.tagging import tags_from_spans
from pymetaner.words import regroup, sentence_from_text

CONLL = """-DOCSTART- -X- -X- O

Ada NNP I-NP I-PER
Lovelace NNP I-NP I-PER
Grace NNP I-NP B-PER
slept VBD I-VP O

-DOCSTART- -X- -X- O

Paris NNP I-NP I-LOC
"""


def save(folder: Path, content: str | bytes, name: str = "data.conll") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_conll_2003(tmp_path: Path) -> None:
    path = save(tmp_path, CONLL)
    corpus = read(path)
    assert [s.words for s in corpus] == [("Ada", "Lovelace", "Grace", "slept"), ("Paris",)]
    assert [s.tags for s in corpus] == [("B-PER", "I-PER", "B-PER", "O"), ("B-LOC",)]
    assert (corpus.notation, corpus.repairs, corpus.path, corpus.types) == ("IOB1", 0, str(path), ("LOC", "PER"))
    assert len(corpus) == 2
    assert corpus[1].source == ("Paris",)


def test_universal_ner(tmp_path: Path) -> None:
    content = "# sent_id = 1\n# text = Ada slept #\n1\tAda\tB-PER\t-\t-\n2\tslept\tO\t-\t-\n3\t#\tO\t-\t-\n\n"
    corpus = read(save(tmp_path, content), word_column=1, tag_column=2)
    assert corpus[0] == Sentence(("Ada", "slept", "#"), ("B-PER", "O", "O"))


@pytest.mark.parametrize(
    "content",
    [
        "Ada B-PER\nslept O\n\nParis B-LOC\n",
        "Ada B-PER\nslept O\n\nParis B-LOC",  # no line break at the end
        "\n\nAda B-PER\nslept O\n \n\t\n\nParis B-LOC\n\n\n",
        "Ada B-PER\r\nslept O\r\n\r\nParis B-LOC\r\n",
        "\ufeffAda B-PER\nslept O\n\nParis B-LOC\n",
        "Ada\tB-PER\nslept\tO\n\nParis\tB-LOC\n",
        "Ada   B-PER \n slept\t O\n\nParis B-LOC\n",
        "Ada B_PER\nslept o\n\nParis b-LOC\n",
        "Ada PER-B\nslept O\n\nParis LOC-B\n",
        "Ada S-PER\nslept O\n\nParis S-LOC\n",
        "Ada U-PER\nslept O\n\nParis U-LOC\n",
        "Ada I-PER\nslept O\n\nParis I-LOC\n",
    ],
)
def test_dialects_that_say_the_same(tmp_path: Path, content: str) -> None:
    assert read(save(tmp_path, content)).sentences == [
        Sentence(("Ada", "slept"), ("B-PER", "O")),
        Sentence(("Paris",), ("B-LOC",)),
    ]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("-DOCSTART- -X- O O\n\nAda\tB-PER\nsat\tO\n", {}),
        ("1\t-DOCSTART-\tO\n\n1\tAda\tB-PER\n2\tsat\tO\n", {"word_column": 1}),
        ("# text = hello, world\nAda,B-PER\nsat,O\n", {"delimiter": ","}),
        ("# text = a\tb\n1\tAda\tB-PER\n2\tsat\tO\n", {"word_column": 1}),
        ("#\thttp://a.b [1]\n1\tAda\tB-PER\n2\tsat\tO\n", {"word_column": 1}),
        ("Ada\tB-PER\nsat\tO\n\n# text = x\tO\n", {}),
    ],
)
def test_marks_and_comments_are_no_words(tmp_path: Path, content: str, options: dict[str, Any]) -> None:
    assert read(save(tmp_path, content), **options).sentences == [Sentence(("Ada", "sat"), ("B-PER", "O"))]


def test_columns_delimiters_and_encodings(tmp_path: Path) -> None:
    expected = [Sentence(("Zoë", "slept"), ("B-PER", "O"))]
    assert (
        read(save(tmp_path, "B-PER;1;Zoë\nO;2;slept\n"), delimiter=";", word_column=2, tag_column=0).sentences
        == expected
    )
    assert read(save(tmp_path, "Zoë B-PER\nslept O\n".encode("latin-1")), encoding="latin-1").sentences == expected
    assert read(save(tmp_path, "Zoë B-PER\nslept O\n".encode("utf-16")), encoding="utf-16").sentences == expected
    assert read(save(tmp_path, "Zoë PER\nslept O\n"), notation="IO").sentences == expected


def test_only_spaces_and_tabs_separate(tmp_path: Path) -> None:
    words = ("10\u00a0000", "a\u3000b", "\u2003", "x\u2028y", "\u0085", "#", "#1")
    space = "".join(f"{word} O\n" for word in words)
    assert read(save(tmp_path, space))[0].words == words
    tab = "".join(f"{word}\tO\n" for word in (*words, "New York", "# x"))
    assert read(save(tmp_path, tab))[0].words == (*words, "New York", "# x")


def test_repairs_are_counted_and_told(tmp_path: Path) -> None:
    path = save(tmp_path, "Ada B-PER\nslept O\nin O\nParis I-LOC\n\nBob B-PER\nAda B-LOC\n")
    with pytest.warns(UserWarning, match=r"data\.conll: 1 tags break the rules of IOB2"):
        corpus = read(path)
    assert (corpus.repairs, corpus.notation) == (1, "IOB2")
    assert corpus[0].tags == ("B-PER", "O", "O", "B-LOC")


def test_a_very_long_sentence(tmp_path: Path) -> None:
    corpus = read(save(tmp_path, "word O\n" * 50_000))
    assert [len(sentence) for sentence in corpus] == [50_000]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("Ada B-PER\n\nslept\n", DataError, r"data\.conll:3: the tag is missing"),
        ("Ada\nslept\n", DataError, r"data\.conll:1: only one column .* the tag is missing"),
        ("Ada B-PER\nNew York O\n", DataError, r"data\.conll:2: 3 of 2 columns"),
        ("Ada\tB-PER\nslept O\nhere\tO\n", DataError, r"data\.conll:2: the tag is missing, 1 of 2 columns .* a tab"),
        ("\tO\nAda\tB-PER\n", DataError, r"data\.conll:1: the word is empty"),
        ("Ada B-PER\nslept O\nhere X-LOC\n", TagError, r"data\.conll:3: 'X-LOC' is not a tag"),
        ("Ada B-PER\nslept NN\n", TagError, r"data\.conll:2: 'NN' is not a tag"),
        ("Ada S-PER\nslept O\nhere U-LOC\n", TagError, r"data\.conll:3: the tags mix"),
        ("", EmptyDataError, r"data\.conll: there is no sentence"),
        ("\ufeff\n \n-DOCSTART- O\n", EmptyDataError, "no sentence"),
        (b"Ada B-PER\nZo\xeb B-PER\n", DataError, r"data\.conll:2: byte 0xeb is not utf-8"),
        (b"Ada O\nb\0c O\n", DataError, r"data\.conll:2: a zero byte"),
        (b"\x7fELF\x02\x01\0\xff", DataError, "byte 0xff is not utf-8"),
        ("Ada O\n".encode("utf-16"), DataError, "utf-16"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, content: str | bytes, error: type[DataError], message: str) -> None:
    with pytest.raises(error, match=message):
        read(save(tmp_path, content))


def test_a_wrong_notation_is_refused_by_file(tmp_path: Path) -> None:
    with pytest.raises(TagError, match=r"data\.conll:1: the tag 'S-PER' is not of the notation IOB2"):
        read(save(tmp_path, "Ada S-PER\nslept O\n"), notation="IOB2")


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, CONLL)
    for settings_, message in (
        ({"tag_column": 4}, "4 columns, but tag_column=4: give a column from 0 to 3"),
        ({"word_column": -5}, "word_column=-5"),
        ({"word_column": 3}, "the same"),
    ):
        with pytest.raises(DataError, match=message):
            read(path, **settings_)  # type: ignore[arg-type]
    for settings_, message in (
        ({"format": "xml"}, "columns, jsonl"),
        ({"delimiter": ""}, "separates nothing"),
        ({"encoding": "utf-99"}, "encoding='utf-99' is unknown"),
        ({"notation": "IOB3"}, "IOB1, IOB2"),
    ):
        with pytest.raises((SettingError, DataError), match=message):
            read(path, **settings_)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "absent.conll")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path)


WORD = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.tuples(WORD, st.sampled_from(["", "PER", "LOC x"])), min_size=1), min_size=1))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[tuple[str, str]]]
) -> None:
    sentences = [
        Sentence(
            tuple(word for word, _ in row),
            tags_from_spans([(i, i + 1, name) for i, (_, name) in enumerate(row) if name], len(row)),
        )
        for row in rows
    ]
    path = tmp_path_factory.mktemp("columns") / "data.conll"
    write(path, sentences, format="columns")
    assert read(path, format="columns").sentences == sentences


def test_writing_words_of_text_and_regrouped_tokens(tmp_path: Path) -> None:
    tokens = Sentence(tuple("她在北京大学读书"), ("O", "O", "B-ORG", "I-ORG", "I-ORG", "I-ORG", "O", "O"))
    text = sentence_from_text("Ann's cat", [(0, 3, "PER")])
    path = tmp_path / "data.conll"
    write(path, [regroup(tokens), text], format="columns")
    assert read(path).sentences == [tokens, Sentence(("Ann", "'s", "cat"), ("B-PER", "O", "O"))]


@pytest.mark.parametrize("word", ["a\tb", "a\nb", "a\0", "-DOCSTART-"])
def test_a_word_that_would_break_the_file_is_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(DataError, match=r"sentence 0: the word .* write format='jsonl'"):
        write(tmp_path / "data.conll", [Sentence((word,), ("O",))], format="columns")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["-DOCSTART-", "-DOCSTART- x", "# a = b", "# text = Ada slept"])
def test_words_that_would_be_read_as_marks_are_not_written(tmp_path: Path, word: str) -> None:
    with pytest.raises(DataError, match="mark of the format"):
        write(tmp_path / "data.conll", [Sentence((word, "b"), ("O", "O"))], "columns")


@pytest.mark.parametrize("word", ["#", "# a", "#a = b", "x-DOCSTART-", "a -DOCSTART-"])
def test_words_that_look_like_marks_are_read_again(tmp_path: Path, word: str) -> None:
    sentences = [Sentence((word, "b"), ("B-PER", "O")), Sentence(("c",), ("O",))]
    write(tmp_path / "data.conll", sentences, "columns")
    assert read(tmp_path / "data.conll").sentences == sentences


def test_encodings_that_make_no_text(tmp_path: Path) -> None:
    (tmp_path / "data.conll").write_bytes(b"Ada O\n+2AA- O\n")
    with pytest.raises(DataError, match=r"data\.conll:2: a lone surrogate"):
        read(tmp_path / "data.conll", encoding="utf-7")


def test_a_notation_that_does_not_exist_is_refused_whatever_is_read(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "Ada", "spans": []}\n')
    with pytest.raises(SettingError, match="notation='foo'"):
        read(tmp_path / "data.jsonl", notation="foo")  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_links_pipes_and_modes_are_kept(tmp_path: Path) -> None:
    sentences = [Sentence(("Ada",), ("B-PER",))]
    target, link, pipe = tmp_path / "target.jsonl", tmp_path / "link.jsonl", tmp_path / "pipe.jsonl"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    write(link, sentences)
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o600
    assert read(target).sentences == sentences
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(pipe.read_text)
        write(pipe, sentences)
        assert found.result(30) == target.read_text()
    assert pipe.is_fifo()
    with pytest.raises(SettingError, match="null"):
        write("a\0b", sentences)


def test_a_path_that_is_too_long_for_sqlite_is_a_file_like_any_other(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["x" * 200] * 3)
    folder.mkdir(parents=True)
    write(folder / "a.conll", [Sentence(("Bob",), ("B-PER",))])
    assert read(folder / "a.conll").sentences == [Sentence(("Bob",), ("B-PER",))]


@pytest.mark.parametrize(
    ("name", "first"),
    [("a.conll", "Bob\tB-PER"), ("a.TXT", "Bob\tB-PER"), ("a.jsonl", "{"), ("a.json", "{"), ("a", "{")],
)
def test_the_name_of_a_file_says_what_is_written(tmp_path: Path, name: str, first: str) -> None:
    write(tmp_path / name, [Sentence(("Bob",), ("B-PER",))])
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(first)
    assert read(tmp_path / name).sentences == [Sentence(("Bob",), ("B-PER",))]
    write(tmp_path / name, [Sentence(("Bob",), ("B-PER",))], format="jsonl")
    assert (tmp_path / name).read_text(encoding="utf-8").startswith("{")

"""Results as text, HTML and data: what is in them, what is escaped, and that nothing leaks into a terminal."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from pymetaner.render import SUPPORT_LIMIT, TEXT_LIMIT, as_dict, as_html, as_text
from pymetaner.result import Result, Support
from pymetaner.sentence import Entity, Sentence
from pymetaner.words import sentence_from_text

EVIL = "<script>alert(\"x\")</script> & 'Berlin' \x1b[31m\x07"


def result_of(
    text: str,
    after: list[tuple[str, str]],
    before: list[tuple[str, str]] | None = None,
    supports: tuple[Support, ...] = (),
) -> Result:
    """A result whose entities are the (text, label) pairs, found in the text."""

    def found(pairs: list[tuple[str, str]], score: float) -> tuple[Entity, ...]:
        return tuple(
            Entity(name, label, text.index(name), text.index(name) + len(name), score) for name, label in pairs
        )

    base = found(after, 0.75) if before is None else found(before, 0.5)
    return Result(sentence_from_text(text), found(after, 0.75), base, supports)


def support_of(text: str, spans: list[tuple[int, int, str]], similarity: float = 0.875) -> Support:
    return Support(sentence_from_text(text, spans), similarity)


class Page(HTMLParser):
    """Collects tags, their attributes, and all text of an HTML fragment."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_result_is_plain_data() -> None:
    result = result_of("Ada slept", [("Ada", "PER")], [], (support_of("Bob slept", [(0, 3, "PER")]),))
    found = json.loads(json.dumps(result.to_dict()))
    assert found == as_dict(result)
    assert found["entities"] == [{"text": "Ada", "label": "PER", "start": 0, "end": 3, "score": 0.75}]
    assert found["changed"] and found["supports"][0]["text"] == "Bob slept"


def test_text_of_a_plain_result() -> None:
    lines = as_text(result_of("Ada met Bob in Paris.", [("Ada", "PER"), ("Paris", "LOC")]), width=60).splitlines()
    assert lines[0] == "[PER Ada] met Bob in [LOC Paris]."
    assert [line.split() for line in lines[3:]] == [["PER", "Ada", "0.75"], ["LOC", "Paris", "0.75"]]
    assert "before" not in lines[2]


def test_what_the_votes_of_words_found_is_marked_too() -> None:
    result = result_of("Ada met Bob", [("Ada", "PER"), ("Bob", "PER")], [("Ada", "PER")])
    assert [line.split() for line in as_text(result, width=60).splitlines()[2:]] == [
        ["type", "entity", "before", "after"],
        ["PER", "Ada", "0.50", "0.75"],
        ["+", "PER", "Bob", "0.75"],
    ]
    assert [word in Page(as_html(result)).text for word in ("before", "after")] == [True, True]


def test_text_marks_what_adapting_found_and_lost() -> None:
    result = result_of(
        "Ada met Bob in Paris.",
        [("Ada", "PER"), ("Paris", "LOC")],
        [("Ada", "PER"), ("Bob", "ORG")],
        (support_of("Eve left Rome", [(9, 13, "LOC")]),),
    )
    lines = as_text(result, width=60).splitlines()
    assert [line.split() for line in lines[2:6]] == [
        ["type", "entity", "before", "after"],
        ["PER", "Ada", "0.50", "0.75"],
        ["-", "ORG", "Bob", "0.50"],
        ["+", "LOC", "Paris", "0.75"],
    ]
    assert lines[-1].split(maxsplit=1) == ["0.875", "Eve left [LOC Rome]"]
    header = lines[2]
    assert all(
        line[header.index("after") : header.index("after") + 5].strip() == "0.75" for line in (lines[3], lines[5])
    )


def test_text_has_no_sign_where_nothing_changed() -> None:
    result = result_of("Ada slept", [("Ada", "PER")], supports=(support_of("Eve left", []),))
    assert not any(line.startswith(("+", "-")) for line in as_text(result).splitlines())


def test_text_is_plain_unless_colour_is_asked_for() -> None:
    result = result_of("Ada slept", [("Ada", "PER")], supports=(support_of("Eve left", [(0, 3, "PER")]),))
    plain, colored = as_text(result), as_text(result, color=True)
    assert "\x1b" not in plain
    assert "\x1b[" in colored
    assert str(result) == plain


@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_the_terminal(width: int) -> None:
    result = result_of("北京大学在中国" * 40, [], supports=(support_of("x" * 500, []),))
    for line in as_text(result, width=width).splitlines():
        assert sum(2 if ord(character) > 0x2E80 else 1 for character in line) <= width


def test_controls_do_not_reach_the_terminal() -> None:
    text = as_text(result_of(EVIL, [("Berlin", "LOC")], supports=(support_of("a\x1b[2Jb\u2028c", []),)))
    assert not set("\x1b\x07\u2028\x9b") & set(text)
    assert text.count("\n") == len(text.splitlines()) - 1


def test_blank_text_and_no_entities() -> None:
    assert "(blank text)" in as_text(result_of("  ", []))
    assert "no entities" in as_text(result_of("It rained", []))


def test_a_long_text_is_shortened_but_its_entities_are_not() -> None:
    text = "Paris " + "and so on " * 1000 + "Rome"
    shown = as_text(result_of(text, [("Paris", "LOC"), ("Rome", "LOC")]), width=100)
    assert len(shown) < TEXT_LIMIT
    assert f"{len(text):,} characters" in shown
    assert "[LOC Paris]" in shown and "[LOC Rome]" in shown and "…" in shown
    many = "Oslo, " * 3000
    spans = [(i, i + 4, "LOC") for i in range(0, len(many), 6)]
    crowded = Result(Sentence(("x",), None, many, ((0, 1),)), tuple(Entity("Oslo", *s[2:], *s[:2]) for s in spans), ())
    shown = as_text(crowded, width=100)
    assert shown.count("Oslo") > 3000
    assert "more entities)" in shown


def test_a_long_support_shows_its_entities() -> None:
    filler = "word " * 300
    text = f"{filler}Rome {filler}"
    at = text.index("Rome")
    result = result_of("Ada", [], supports=(support_of(text, [(at, at + 4, "LOC")]), support_of(filler, [])))
    for shown in (as_text(result, width=2000), Page(as_html(result)).text):
        assert len(shown) < 3 * SUPPORT_LIMIT
        assert "Rome" in shown
        assert "…" in shown


def test_tokens_are_joined_by_spaces() -> None:
    sentence = Sentence(("Ada", "Lovelace", "slept", "in", "Paris"))
    tags = ("B-PER", "I-PER", "O", "O", "B-LOC")
    result = Result(sentence, sentence.entities_of(tags, None), ())
    assert as_text(result).splitlines()[0] == "[PER Ada Lovelace] slept in [LOC Paris]"
    touching = Result(sentence, sentence.entities_of(("O", "B-PER", "B-ORG", "O", "O"), None), ())
    assert as_text(touching).splitlines()[0] == "Ada [PER Lovelace] [ORG slept] in Paris"


def test_html_escapes_everything() -> None:
    sentence = Sentence((EVIL, "Berlin"), ("B-<b>", "O"))
    result = Result(sentence, sentence.entities, (), (Support(sentence, 0.5),))
    markup = as_html(result)
    page = Page(markup)
    assert not {"script", "b"} & set(page.tags)
    assert "<script>alert(\"x\")</script> & 'Berlin'" in page.text
    assert "\x1b" not in markup and "\x07" not in markup
    assert not page.open
    assert not any(name.startswith("on") or name in ("src", "href") for a in page.attributes for name in a)


def test_html_shows_before_and_after_and_supports() -> None:
    result = result_of(
        "Ada met Bob", [("Ada", "PER")], [("Bob", "ORG")], (support_of("Eve left Rome", [(9, 13, "LOC")]),)
    )
    markup = as_html(result)
    page = Page(markup)
    before, after, support = (markup.split("<tr")[i] for i in (1, 2, 4))
    assert ">Bob " in before and "ORG 0.50" in before and "PER" not in before
    assert ">Ada " in after and "PER 0.75" in after and "ORG" not in after
    assert "0.875" in support and ">Rome " in support and "LOC" in support
    assert page.tags.count("mark") == 3
    assert result._repr_html_() == markup


def test_html_lets_the_text_choose_its_direction() -> None:
    page = Page(as_html(result_of("ولد نجيب محفوظ في القاهرة", [("القاهرة", "LOC")])))
    directions = {tag: a.get("dir") for tag, a in zip(page.tags, page.attributes, strict=True)}
    assert directions["div"] == directions["mark"] == "auto"
    assert directions["small"] == "ltr"


def test_overlapping_entities_lose_no_text() -> None:
    found = (Entity("Ada Lovelace", "PER", 0, 12), Entity("Lovelace", "LOC", 4, 12))
    result = Result(sentence_from_text("Ada Lovelace"), found, found)
    assert as_text(result).splitlines()[0] == "[PER Ada Lovelace]"
    assert Page(as_html(result)).text.count("Lovelace") == 1


def test_data_goes_through_json() -> None:
    result = result_of("Ada met Bob", [("Ada", "PER")], [("Bob", "ORG")], (support_of("Rome", [(0, 4, "LOC")]),))
    data = json.loads(json.dumps(as_dict(result)))
    assert data["changed"] is True
    assert data["entities"] == [{"text": "Ada", "label": "PER", "start": 0, "end": 3, "score": 0.75}]
    assert data["base_entities"][0]["label"] == "ORG"
    assert data["supports"][0]["similarity"] == 0.875
    assert data["supports"][0]["entities"][0]["text"] == data["supports"][0]["text"] == "Rome"

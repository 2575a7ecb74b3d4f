"""Words of raw text: what is in a word and what is not, for any text and for the scripts that people write."""

from __future__ import annotations

import builtins
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymetaner import script, words
from pymetaner.errors import InputError, SpanError
from pymetaner.sentence import Sentence
from pymetaner.words import regroup, segment, sentence_from_text

# Characters at which segmenters stumble, mixed so that rules meet.
TRICKY = [*"aLé'’.-&:/@$5中国々のアーกไကខລ한שم ", "\u0301", "\u00a0", "\u3000", "\n", "\t", "\x1c", "\x00"]
TRICKY += ["\u200b", "\u200d", "\u200f", "\ufeff", "\ufe0f", "😀", "👩", "🏽", "🇩", "𝒳", "𠮷", "http://", "Dr", "qu'"]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(TRICKY)).map("".join))


def cut(text: str) -> list[str]:
    return [text[start:end] for start, end in segment(text)]


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_every_character_that_is_not_space_is_in_one_word(text: str) -> None:
    position = 0
    for start, end in segment(text):
        assert position <= start < end
        assert not text[position:start].strip()
        assert not any(character.isspace() for character in text[start:end])
        position = end
    assert not text[position:].strip()


@settings(deadline=None)
@given(TEXTS)
def test_a_mark_is_with_its_base(text: str) -> None:
    starts = {start for start, _ in segment(text)}
    for i, character in enumerate(text):
        if character in "\u0301\u200d\ufe0f🏽" and i and not text[i - 1].isspace():
            assert i not in starts


@pytest.mark.parametrize(
    "expected",
    [
        "Foto-Wettbewerb in Baden-Baden , 10:30 Uhr , 1/2 , 2000-01-31",
        "AT&T and S&P paid $ 5.6 ( 1,234.5 % ) ! -- ...",
        "The U.S. and J. Smith of St. Louis , Dr. No , Apple Inc. e.g. Bob .",
        "Ann 's O'Neil do n't McDonald ’s",
        "l' homme d’ Italie qu' il aujourd'hui L' Allemagne dell' arte",
        "Ankara 'da Türkiye 'nin Xi'an Qur'an",
        "www.example.com info@example.com https://example.com/a?b=1 . EU:s",
        "नमस्ते भारत में कार्यालय ।",
        "대한민국의 수도는 서울이다 .",
        "ولد محمد في القاهرة ، مصر .",
        "😀 👨‍👩‍👧 👍🏽 🇩🇪 🇫🇷 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 !",
        "𝒳yz 𠮷 野 家",
    ],
)
def test_words_between_spaces(expected: str) -> None:
    assert cut(expected) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann's friend", "Ann 's friend"),
        ("ANN'S", "ANN 'S"),
        ("don't", "do n't"),
        ("dogs' tails", "dogs ' tails"),
        ("O'Neil's", "O'Neil 's"),
        ("Cafe\u0301's", "Cafe\u0301 's"),
        ("l'e\u0301te\u0301", "l' e\u0301te\u0301"),
        ("e\u0301-a\u0301", "e\u0301-a\u0301"),
        ("Paris,Rom(Wien)", "Paris , Rom ( Wien )"),
        ("see https://x.org/a).", "see https://x.org/a ) ."),
        ("网址https://x.cn好", "网址 https://x.cn 好"),
        ("她在北京大学读书。", "她 在 北京大学 读书 。"),
        ("她在臺北會見了總統。", "她 在 臺北 會見 了 總統 。"),
        ("中国-美国", "中国 - 美国"),
        (
            "ソニーは東京で新しいプレイステーションを発売した。",
            "ソニー は 東京 で 新しい プレイステーション を 発売 した 。",
        ),
        ("ประเทศไทยเป็นประเทศ", "ประเทศไทย เป็น ประเทศ"),
        ("ກຸງວຽງຈັນ", "ກຸງ ວຽງຈັນ"),
        ("ព្រះរាជាណាចក្រកម្ពុជា", "ព្រះរាជាណាចក្រ កម្ពុជា"),
        ("မြန်မာနိုင်ငံသည်", "မြန်မာနိုင်ငံ သည်"),
        ("10\u00a0000\u3000a", "10 000 a"),
        ("\u200fשלום\u200f", "\u200fשלום\u200f"),
        ("a\u200bb", "a\u200b b"),
        ("\u200b", "\u200b"),
    ],
)
def test_words_of_running_text(text: str, expected: str) -> None:
    assert cut(text) == expected.split(" ")


def test_han_is_chinese_unless_its_line_has_kana() -> None:
    chinese, japanese = "北京大学生活动中心", "安倍首相は国会で演説した"
    alone = cut(chinese), cut(japanese)
    assert cut(f"{chinese}\n{japanese}") == [*alone[0], *alone[1]]
    # A title quoted in Chinese does not make the line Japanese.
    assert cut("我们在北京大学看了一部叫做の的电影，大家都觉得这部电影非常好看")[2] == "北京大学"


@pytest.mark.parametrize("text", ["", " ", "\n\t\u00a0\u3000"])
def test_blank_text_has_no_words(text: str) -> None:
    assert segment(text) == []
    assert sentence_from_text(text) == Sentence((), None, text)
    assert sentence_from_text(text, []).tags == ()


@pytest.mark.parametrize(
    "piece", ["a", "a b ", "中国人在", "田中さん", "ประเทศไทย", "😀", "-'", "a.b@", "\u0301", "\u200b", "http://", "A."]
)
def test_long_text_takes_a_moment_only(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    began = time.process_time()
    assert segment(text)
    assert time.process_time() - began < 3  # 0.5 at most on an idle machine; quadratic rules take minutes


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="character 2 is a lone surrogate"):
        segment("ab\ud800c")
    with pytest.raises(InputError, match="not bytes"):
        segment(b"ab")  # type: ignore[arg-type]


def test_words_break_at_labelled_edges() -> None:
    text = "Neuyork-based Ann 会见华人"
    spans = [(0, 7, "LOC"), (20, 21, "LOC")]
    sentence = sentence_from_text(text, spans)
    assert [(e.text, e.start, e.end, e.label) for e in sentence.entities] == [
        ("Neuyork", 0, 7, "LOC"),
        ("华", 20, 21, "LOC"),
    ]
    assert sentence.words == ("Neuyork", "-based", "Ann", "会见", "华", "人")


@settings(deadline=None)
@given(TEXTS, st.data())
def test_labelled_spans_come_back_without_space_at_their_edges(text: str, data: st.DataObject) -> None:
    edges = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    spans = [(a, b, "X") for a, b in zip(edges[::2], edges[1::2], strict=False) if text[a:b].strip()]
    sentence = sentence_from_text(text, spans)
    assert [e.text for e in sentence.entities] == [text[a:b].strip() for a, b, _ in spans]
    assert all(text[e.start : e.end] == e.text for e in sentence.entities)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 4, "PER")], "outside the text of 3"),
        ([(-1, 2, "PER")], "outside"),
        ([(1, 1, "PER")], "empty"),
        ([(1, 2, "PER")], "white space only"),
        ([(0, 2, "PER"), (0, 1, "LOC")], "overlap"),
        ([(0, 1, "")], "no label"),
    ],
)
def test_labelled_spans_that_do_not_fit_are_refused(spans: list[tuple[int, int, str]], message: str) -> None:
    with pytest.raises(SpanError, match=message):
        sentence_from_text("a b", spans)


def test_regroup_makes_words_and_keeps_the_place_of_entities() -> None:
    tokens = tuple("她在北京大学读书,2年")
    plain = regroup(Sentence(tokens))
    assert plain.words == ("她", "在", "北京大学", "读书", ",", "2", "年")
    assert plain.source == tokens
    labelled = Sentence(tokens, ("O", "O", "B-LOC", "I-LOC", *["O"] * 7))
    grouped = regroup(labelled)
    assert grouped.words[2:4] == ("北京", "大学")
    assert grouped.entities == labelled.entities


@pytest.mark.parametrize("dot", "·•‧・")
def test_the_parts_of_a_foreign_name_are_one_word_in_chinese(dot: str) -> None:
    text = f"他见到了乔治{dot}华盛顿。"
    assert f"乔治{dot}华盛顿" in cut(text)
    assert regroup(Sentence(tuple(text))).words == tuple(cut(text))
    assert dot in cut(f"東京{dot}大阪のホテル")  # a list, as often as not
    assert dot in cut(f"a {dot} 北京{dot} b")


def test_a_dot_between_labelled_entities_parts_them() -> None:
    sentence = sentence_from_text("乔治·华盛顿", [(0, 2, "PER"), (3, 6, "LOC")])
    assert sentence.words == ("乔治", "·", "华盛顿")
    assert regroup(Sentence(tuple("乔治·京"), ("B-PER", "I-PER", "O", "B-LOC"))).words == ("乔治", "·", "京")


def test_regroup_spells_numbers_and_latin_words() -> None:
    tokens = tuple("在２００１年，ＷＴＯ有10.5%和3,5:")
    words = ("在", "２００１", "年", "，", "ＷＴＯ", "有", "10.5", "%", "和", "3,5", ":")
    assert regroup(Sentence(tokens)).words == words
    english = Sentence(("I", "a", "1", "2"))
    assert regroup(english) is english


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"中国人民银行在北京の·", "a", "1", "12"]), max_size=12), st.data())
def test_regroup_keeps_tokens_and_entities(tokens: list[str], data: st.DataObject) -> None:
    edges = sorted(data.draw(st.sets(st.integers(0, len(tokens)), max_size=4)))
    tags = ["O"] * len(tokens)
    for first, last in zip(edges[::2], edges[1::2], strict=False):
        tags[first:last] = ["B-X"] + ["I-X"] * (last - first - 1)
    sentence = Sentence(tuple(tokens), tuple(tags))
    grouped = regroup(sentence)
    assert grouped.entities == sentence.entities
    assert "".join(grouped.words) == "".join(tokens)
    assert [i for start, end in grouped.spans for i in range(start, end)] == list(range(len(tokens)))
    assert regroup(grouped) is grouped


@pytest.mark.parametrize(
    "sentence",
    [
        Sentence(("Ada", "slept")),
        Sentence(("中", "a", "国")),
        Sentence(("北京", "的", "人")),  # in words already
        Sentence(("魑", "魅", "a"), ("B-X", "B-X", "O")),
        Sentence(("中", "国"), None, "中国", ((0, 1), (1, 2))),
        Sentence(()),
    ],
)
def test_what_needs_no_regrouping_is_the_same_object(sentence: Sentence) -> None:
    assert regroup(sentence) is sentence


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that makes libraries impossible to import."""
    real = builtins.__import__

    def hide(*names: str) -> None:
        def import_(name: str, *arguments: Any, **options: Any) -> Any:
            if name.partition(".")[0] in names:
                raise ImportError(f"no {name}")
            return real(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", import_)
        words._load_icu.cache_clear()
        words._load_jieba.cache_clear()
        script._converters.cache_clear()

    yield hide
    words._load_icu.cache_clear()
    words._load_jieba.cache_clear()
    script._converters.cache_clear()


def test_without_jieba_icu_cuts_chinese_and_says_so_once(without: Any) -> None:
    without("rjieba")
    with pytest.warns(UserWarning, match="pip install rjieba"):
        assert "".join(cut("她在北京大学读书")) == "她在北京大学读书"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(cut("她在北京大学读书")) < 8


def test_without_opencc_traditional_chinese_is_cut_as_it_stands(without: Any) -> None:
    without("opencc")
    with pytest.warns(UserWarning, match="pip install opencc"):
        assert "".join(cut("她在臺北會見了總統")) == "她在臺北會見了總統"
    assert script.other_scripts("中国") == []


def test_without_icu_letters_and_digits_are_words(without: Any) -> None:
    without("icu4py", "rjieba")
    with pytest.warns(UserWarning) as caught:
        found = cut("Ann's Cafe\u0301, l'Italie भारत में 5.6 中国 ไทย 😀")
    assert " ".join(found) == "Ann 's Cafe\u0301 , l' Italie भारत में 5.6 中 国 ไ ท ย 😀"
    assert {"icu4py", "rjieba"} == {str(w.message).split()[0] for w in caught}


def test_spans_that_are_none_are_refused():
    for wrong in ([(0, 1)], [(0.5, 1, "PER")], 5, [("0", "1", "PER")]):
        with pytest.raises(SpanError, match="expected \\(start, end, label\\)"):
            sentence_from_text("a b", wrong)
    assert sentence_from_text("a b", [(np.int64(0), np.int64(1), "PER")]).tags == ("B-PER", "O")

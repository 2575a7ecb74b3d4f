"""Words to windows: every word is read once, at the right piece, with as much around it as there is room for."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, CORPUS, OVERLAP, WINDOW, model_of, tokenizer_of
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import pymetaner
from pymetaner import windows as windows_module
from pymetaner.errors import DataError, SettingError
from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence
from pymetaner.windows import IGNORE, WordTokenizer, make_batch, pack


def counting_tokenizer() -> PreTrainedTokenizerFast:
    """One piece a character: a word of n letters x has n pieces."""
    core = Tokenizer(
        models.WordPiece(
            {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "x": 3, "##x": 4}, unk_token="[UNK]", max_input_chars_per_word=10_000
        )
    )
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


COUNTING = counting_tokenizer()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_windows_of_any_sentence(data):
    room = data.draw(st.integers(8, 20), label="room")
    overlap = data.draw(st.integers(0, room // 2), label="overlap")
    lengths = data.draw(st.lists(st.one_of(st.integers(1, 4), st.integers(1, room + 5)), max_size=40), label="lengths")
    words = WordTokenizer(COUNTING, room + 2, overlap)
    found = words.windows([Sentence(("x",)), Sentence(tuple("x" * n for n in lengths))])[1:]

    begin = [0]
    for n in lengths:
        begin.append(begin[-1] + min(n, room))
    shown: dict[tuple[int, int], int] = {}
    owner_end = 0
    for window in found:
        assert window.sentence == 1
        assert window.words[0] == owner_end  # every word has one owner, in order
        assert window.words[0] < window.words[1]
        owner_end = window.words[1]
        pieces = len(window.ids) - 2
        assert pieces <= room
        assert (window.ids[0], window.ids[-1]) == (1, 2)
        # Where the window lies in the sentence follows from any of its positions; it must show whole words.
        start = begin[window.words[0]] - (window.positions[0] - 1)
        first, last = begin.index(start), begin.index(start + pieces)
        shown[first, last] = owner_end
        assert list(window.ids[1:-1]) == [3 + (k > 0) for n in lengths[first:last] for k in range(min(n, room))]
        assert list(window.positions) == [begin[w] - start + 1 for w in range(*window.words)]
    assert owner_end == len(lengths)

    stretches = words._stretches(begin)
    assert shown.keys() <= set(stretches)
    for (first, last), (following, end) in pairwise(stretches):
        assert first < following <= last < end
        shared = begin[last] - begin[following]
        assert 0 <= shared <= overlap
        more = following - 1  # one word more of overlap would be too much of it, or leave no room to go on
        assert more == first or begin[last] - begin[more] > overlap or begin[last + 1] - begin[more] > room
        for w in range(following, last) if {(first, last), (following, end)} <= shown.keys() else ():
            from_left, from_right = begin[w] - begin[following], begin[last] - begin[w]
            assert (w < shown[first, last]) == (from_left < from_right)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_pieces_are_those_of_pretokenised_input(kind):
    tokenizer = tokenizer_of(kind)
    words = WordTokenizer(tokenizer, 512, 64)
    marks = 0
    for sentence, window in zip(CORPUS, words.windows(CORPUS), strict=True):
        encoding = tokenizer(list(sentence.words), is_split_into_words=True)
        assert list(window.ids) == encoding["input_ids"]
        owners = encoding.word_ids()
        for word, position in enumerate(window.positions):
            first = owners.index(word)
            if owners.count(word) > 1 and tokenizer.convert_ids_to_tokens(window.ids[first]) == "▁":
                marks += 1
                first += 1
            assert position == first
    assert (marks > 0) == (kind == "unigram")


def test_byte_level_words_have_the_space_before_them():
    tokenizer = tokenizer_of("bytelevel")
    words = WordTokenizer(tokenizer, 512, 64)
    marks = 0
    for sentence, window in zip(CORPUS, words.windows(CORPUS), strict=True):
        text = " " + " ".join(sentence.words)
        encoding = tokenizer(text, return_offsets_mapping=True)
        assert list(window.ids) == encoding["input_ids"]
        place = 0
        for word, position in zip(sentence.words, window.positions, strict=True):
            place += 1  # the space
            first = next(i for i, (_, end) in enumerate(encoding["offset_mapping"]) if end > place)
            assert position == first
            marks += tokenizer.convert_ids_to_tokens(window.ids[position - 1]) == "Ġ"
            place += len(word)
    assert marks > 0


def test_words_that_tokenise_to_nothing_are_unknown_words():
    tokenizer = tokenizer_of("wordpiece")  # its normaliser drops control characters and zero-width spaces
    for word in ("\u200b", "", "\ufeff"):
        assert tokenizer(word, add_special_tokens=False)["input_ids"] == []
        (window,) = WordTokenizer(tokenizer, 512, 64).windows([Sentence(("London", word, "."))])
        assert window.words == (0, 3)
        assert window.ids[window.positions[1]] == tokenizer.unk_token_id
        assert tokenizer.convert_ids_to_tokens(window.ids[window.positions[2]]) == "."


@pytest.fixture(scope="module")
def traditional() -> PreTrainedTokenizerFast:
    """A tokenizer whose words of several characters are traditional, but for one."""
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), ("中國", -3.0), ("学习", -3.0), ("北京", -3.0)]
    core = Tokenizer(models.Unigram(pieces + [(c, -5.0) for c in "中国國学习學習北京臺"], unk_id=2))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def test_chinese_words_are_read_in_the_script_that_the_tokenizer_knows(traditional):
    sentence = Sentence(("中国", "北京", "學習", "学習", "国", "台", "学中"))
    read = ["▁ 中國", "▁ 北京", "▁ 学习", "▁ 学习", "▁ 国", "▁ 臺", "▁ 学 中"]
    given = ["▁ 中 国", "▁ 北京", "▁ 學 習", "▁ 学 習", "▁ 国", "▁ <unk>", "▁ 学 中"]
    for any_script, expected in ((True, read), (False, given)):
        (window,) = WordTokenizer(traditional, 64, 0, any_script=any_script).windows([sentence])
        assert " ".join(traditional.convert_ids_to_tokens(window.ids[1:-1])) == " ".join(expected)
        firsts = traditional.convert_ids_to_tokens([window.ids[place] for place in window.positions])
        assert firsts == [pieces.split()[1] for pieces in expected]


def test_the_script_is_a_setting_and_part_of_the_fingerprint():
    known = model_of("xlm-roberta")
    given = MetaNER(known.network, known.tokenizer, settings=replace(known.settings, script="given"))
    assert known.words.any_script and not given.words.any_script
    assert known.fingerprint != given.fingerprint


def test_a_sentence_without_words_has_no_window():
    words = WordTokenizer(tokenizer_of("wordpiece"), WINDOW, OVERLAP)
    assert [w.sentence for w in words.windows([Sentence(()), Sentence(("a",)), Sentence(())])] == [1]


def test_a_hundred_thousand_characters_in_one_word_or_in_many(caplog):
    words = WordTokenizer(tokenizer_of("unigram"), 512, 64)
    transformers_logger = logging.getLogger("transformers")
    transformers_logger.addHandler(caplog.handler)
    found = words.windows([Sentence(("a", "London" * 16_667, "b")), Sentence(("London",) * 16_667)])
    transformers_logger.removeHandler(caplog.handler)
    assert not caplog.records
    for index, count in ((0, 3), (1, 16_667)):
        mine = [window for window in found if window.sentence == index]
        assert [w for window in mine for w in range(*window.words)] == list(range(count))
        assert max(len(window.ids) for window in mine) <= 512


@pytest.mark.parametrize(("window", "overlap"), [(9, 0), (40, 20), (40, -1)])
def test_windows_without_room_are_refused(window, overlap):
    with pytest.raises(SettingError, match=r"a window of \d+ pieces"):
        WordTokenizer(COUNTING, window, overlap)


def test_a_full_cache_is_emptied_under_no_thread(monkeypatch):
    monkeypatch.setattr(windows_module, "_CACHED_WORDS", 20)
    words = WordTokenizer(tokenizer_of("wordpiece"), 512, 64)
    sentences = [Sentence(tuple(f"w{i}x{j}" for j in range(15))) for i in range(100)]

    def ids(sentence: Sentence) -> tuple[int, ...]:
        return words.windows([sentence])[0].ids

    expected = [WordTokenizer(tokenizer_of("wordpiece"), 512, 64).windows([s])[0].ids for s in sentences]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(ids, sentences)) == expected
    assert len(words._pieces) < 20 + 8 * 15


def test_batches_hold_every_window_once_sorted_by_length():
    words = WordTokenizer(tokenizer_of("wordpiece"), WINDOW, OVERLAP)
    found = words.windows(CORPUS)
    lengths = [len(window.ids) for window in found]
    groups = pack(lengths, 5)
    assert sorted(i for group in groups for i in group) == list(range(len(found)))
    ordered = [lengths[i] for group in groups for i in group]
    assert ordered == sorted(ordered)
    assert max(map(len, groups)) <= 5


def cost(groups, lengths, overhead):
    return sum(len(group) * max(lengths[i] for i in group) + overhead for group in groups)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.integers(1, 7), st.integers(8, 40), st.integers(0, 30))
def test_packing_is_the_cheapest_there_is(lengths, most, pieces, overhead):
    def partitions(items):
        if not items:
            yield []
            return
        for size in range(1, min(most, len(items)) + 1):
            group, rest = items[:size], items[size:]
            if size == 1 or size * max(lengths[i] for i in group) <= pieces:
                yield from ([group, *others] for others in partitions(rest))

    groups = pack(lengths, most, pieces=pieces, overhead=overhead)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= pieces for g in groups)
    assert max(map(len, groups)) <= most
    in_order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    assert cost(groups, lengths, overhead) == min(cost(p, lengths, overhead) for p in partitions(in_order))
    assert pack([], 4) == []


def test_a_batch_is_padded_and_labelled_at_the_positions():
    words = WordTokenizer(tokenizer_of("wordpiece"), WINDOW, OVERLAP)
    long = Sentence(tuple(word for s in CORPUS[:4] for word in s.words))
    found = words.windows([CORPUS[0], long])
    assert len(found) > 2
    batch = make_batch(found, pad_id=0)
    tag_ids = [list(range(100, 100 + len(CORPUS[0]))), list(range(500, 500 + len(long)))]
    labels = batch.labels(tag_ids)
    seen = []
    for row, window in enumerate(found):
        length = len(window.ids)
        assert batch.input_ids[row].tolist() == [*window.ids, *[0] * (batch.input_ids.shape[1] - length)]
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)
        seen += [label for label in labels[row].tolist() if label != IGNORE]
    assert seen == tag_ids[0] + tag_ids[1]


def test_logits_of_short_sentences_are_those_of_the_plain_network():
    model = model_of("xlm-roberta", window=64, overlap=0)
    for sentence, reading in zip(CORPUS, model.read(CORPUS, batch_size=5), strict=True):
        encoding = model.tokenizer(list(sentence.words), is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            output = model.network(**encoding, output_hidden_states=True)
        positions = list(model.words.windows([sentence])[0].positions)
        np.testing.assert_allclose(reading.logits, output.logits[0, positions].numpy(), atol=2e-5)
        mean = output.hidden_states[model.settings.freeze_layers or -1][0].mean(0).numpy()
        np.testing.assert_allclose(reading.vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_words_of_a_long_sentence_are_read_in_their_own_window():
    model = model_of("bert")
    long = Sentence(tuple(word for s in CORPUS for word in s.words))
    reading = model.read([long])[0]
    assert reading.logits.shape == (len(long), 7)
    found = model.words.windows([long])
    assert len(found) > 5
    for window in found:
        with torch.inference_mode():
            logits = model.network(torch.tensor([window.ids])).logits[0, list(window.positions)]
        np.testing.assert_allclose(reading.logits[slice(*window.words)], logits.numpy(), atol=2e-5)


@pytest.mark.parametrize("freeze_layers", [0, 1, 3])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_embedding_alone_gives_the_vectors_of_a_whole_reading(architecture, freeze_layers):
    model = model_of(architecture)
    model.settings = replace(model.settings, freeze_layers=freeze_layers)
    long = Sentence(tuple(word for s in CORPUS for word in s.words))
    sentences = [*CORPUS, long, Sentence((), source="  ")]
    whole = np.stack([reading.vector for reading in model.read(sentences, batch_size=3)])
    np.testing.assert_allclose(model.embed(sentences), whole, atol=1e-5)
    assert not whole[-1].any()
    np.testing.assert_allclose(np.linalg.norm(whole[:-1], axis=1), 1, atol=1e-5)


def test_training_the_upper_layers_leaves_vectors_and_fingerprint():
    model = model_of("bert")
    before, vectors = model.fingerprint, model.embed(CORPUS)
    frozen = model.settings.freeze_layers
    with torch.no_grad():
        for layer in model.network.bert.encoder.layer[frozen:]:
            layer.output.dense.weight += 1
    assert model.fingerprint == before
    np.testing.assert_array_equal(model.embed(CORPUS), vectors)
    with torch.no_grad():
        model.network.bert.encoder.layer[frozen - 1].output.dense.weight += 1
    assert model.fingerprint != before


def test_words_that_are_no_text_are_refused_by_whatever_reads_them(tmp_path):
    model, broken = model_of("bert"), Sentence(("Ada", "\ud800"), ("O", "O"))
    for use in (
        lambda: model.embed([broken]),
        lambda: pymetaner.fine_tune(model, [broken]),
        lambda: pymetaner.evaluate(model, [broken]),
        lambda: pymetaner.train(model, [broken], tmp_path),
    ):
        with pytest.raises(DataError, match="lone surrogate"):
            use()

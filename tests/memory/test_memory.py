from __future__ import annotations

import numpy as np
import pytest
from memory_fakes import FakeEncoder, labelled, numbered

from pymetaner.errors import InputError
from pymetaner.memory import Hit, Memory
from pymetaner.sentence import Sentence

ADA = labelled("Ada slept", Ada="PER")
OSLO = labelled("Oslo woke up", Oslo="LOC")


def test_what_is_added_is_found_by_the_next_search(memory: Memory, encoder: FakeEncoder) -> None:
    ids = memory.add([ADA, OSLO])
    hits = memory.search(encoder.embed([OSLO, ADA]), 1)
    assert hits == [[Hit(ids[1], OSLO, 1.0)], [Hit(ids[0], ADA, 1.0)]]
    new = memory.add(numbered(1))
    assert memory.search(encoder.embed([numbered(1)]), 1) == [[Hit(new[0], numbered(1), 1.0)]]


def test_ids_ascend_in_the_order_given_and_are_never_used_again(memory: Memory) -> None:
    assert memory.add([numbered(3), numbered(1), numbered(2)]) == [1, 2, 3]
    assert [sentence for _, sentence in memory] == [numbered(3), numbered(1), numbered(2)]
    assert memory.remove([2, 3]) == 2
    assert memory.add(numbered(9)) == [4]
    assert memory.clear() == 2
    assert memory.add(numbered(9)) == [5]


def test_a_duplicate_is_kept_once(memory: Memory, encoder: FakeEncoder) -> None:
    assert memory.add([ADA, OSLO, ADA]) == [1, 2, 1]
    assert memory.add([numbered(1), OSLO]) == [3, 2]
    assert len(memory) == 3
    assert encoder.embedded == 3, "what is known is not embedded again"
    other_tags = ADA.with_tags(["B-ORG", "O"])
    assert memory.add([other_tags]) == [4]
    assert memory[1] == ADA and memory[4] == other_tags


def test_one_vector_a_sentence_in_the_order_of_ids(memory: Memory, encoder: FakeEncoder) -> None:
    sentences = [numbered(i) for i in range(100)]
    memory.add(sentences)
    memory.remove(range(10, 20))
    left = sentences[:9] + sentences[19:]
    assert memory.ids.tolist() == [*range(1, 10), *range(20, 101)]
    np.testing.assert_array_equal(memory.vectors, encoder.embed(left))
    assert memory.vectors.dtype == np.float32 and memory.vectors.flags.c_contiguous


def test_ids_and_vectors_are_snapshots_that_nobody_can_write(memory: Memory) -> None:
    memory.add([numbered(i) for i in range(5)])
    ids, vectors = memory.snapshot()
    before = vectors.copy()
    memory.remove([1, 2])
    memory.add([numbered(i) for i in range(100, 300)])
    assert ids.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(vectors, before)
    with pytest.raises(ValueError, match="read-only"):
        vectors[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 0


def test_the_order_is_similarity_descending_then_id_ascending(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add([numbered(i) for i in range(200)])
    queries = encoder.embed([numbered(i) for i in range(150, 250)])
    ids, vectors = memory.snapshot()
    for query, hits in zip(queries, memory.search(queries, 20), strict=True):
        similarity = vectors @ query
        expected = np.lexsort((ids, -similarity))[:20]
        assert [hit.id for hit in hits] == ids[expected].tolist()
        assert [hit.similarity for hit in hits] == similarity[expected].tolist()


def test_a_small_memory_gives_fewer_and_an_empty_one_none(memory: Memory, encoder: FakeEncoder) -> None:
    queries = encoder.embed([ADA, OSLO])
    assert memory.search(queries, 3) == [[], []]
    memory.add([ADA, OSLO])
    assert [len(hits) for hits in memory.search(queries, 3)] == [2, 2]
    assert memory.search(queries[:0], 3) == []


def test_texts_are_found_wherever_their_words_are_cut(memory: Memory) -> None:
    cut = Sentence(("A", "dasle", "pt"), ("O",) * 3)
    spaced = Sentence(("Ada slept",), ("O",))
    memory.add([ADA, OSLO, cut, spaced])
    found = memory.find_texts([ADA.with_tags(None), cut, labelled("Ada"), OSLO])
    assert "".join(ADA.words) == "Adaslept"
    assert found == [{1, 3, 4}, {1, 3, 4}, frozenset(), {2}]
    assert memory.find_texts([]) == []
    with pytest.raises(InputError, match="expected a pymetaner"):
        memory.find_texts(["Ada slept"])  # type: ignore[list-item]


def test_a_query_does_not_find_itself(memory: Memory, encoder: FakeEncoder) -> None:
    otherwise = ADA.with_tags(["O", "O"])
    memory.add([ADA, otherwise, OSLO, numbered(1)])
    queries = encoder.embed([ADA] * 5)
    unknown = labelled("never added")
    hits = memory.search(queries, 4, exclude_self=[ADA, ADA.with_tags(None), 3, None, unknown])
    everything = [hit.id for hit in hits[3]]
    assert everything[:2] == [1, 2] and sorted(everything) == [1, 2, 3, 4]
    assert [hit.id for hit in hits[0]] == [hit.id for hit in hits[1]] == everything[2:]
    assert [hit.id for hit in hits[2]] == [i for i in everything if i != 3]
    assert hits[4] == hits[3]
    alone = memory.search(queries[:1], 1, exclude_self=[ADA])
    assert [hit.id for hit in alone[0]] == everything[2:3], "an excluded one takes nobody's place"


@pytest.mark.parametrize(
    "sentence",
    [
        Sentence(("Ada", "slept"), ("B-PER", "O"), "Ada  slept.", ((0, 3), (5, 10))),
        Sentence(("東京都", "に"), ("B-LOC", "O"), "東京都に", ((0, 3), (3, 4))),
        Sentence(("北京", "很", "大"), ("B-LOC", "O", "O"), ("北", "京", "很", "大"), ((0, 2), (2, 3), (3, 4))),
        Sentence(('"', "a\\b", "\x00", "e\u0301", "👩🏽‍🚀", "שלום", "\u2028"), ("O", "B-PER", *"OOOOO")),
        Sentence(("of", "a", "type"), ("B-PER", "O", "I-LOC")),
        Sentence(tuple("word" for _ in range(50_000)), ("O",) * 50_000),
    ],
    ids=["raw text", "Japanese", "regrouped", "odd characters", "stray I-", "long"],
)
def test_a_sentence_comes_back_as_it_was(encoder: FakeEncoder, path, sentence: Sentence) -> None:
    with Memory(encoder, path) as memory:
        (key,) = memory.add(sentence)
    with Memory(encoder, path) as memory:
        assert memory[key] == sentence
        assert memory[key].entities == sentence.entities
        assert sentence in memory


def test_entity_types_may_hold_spaces_and_hyphens(path) -> None:
    encoder = FakeEncoder(types=["work of art", "GPE-LOC"])
    sentence = Sentence(("a", "b"), ("B-work of art", "B-GPE-LOC"))
    with Memory(encoder, path) as memory:
        memory.add(sentence)
        assert memory.types == {"work of art", "GPE-LOC"}
        memory.add(labelled("plain"))
        memory.remove(1)
        assert memory.types == frozenset()


def test_containers_habits(memory: Memory) -> None:
    memory.add([ADA, OSLO])
    assert len(memory) == 2
    assert list(memory) == [(1, ADA), (2, OSLO)]
    assert ADA in memory and ADA.with_tags(["O", "O"]) not in memory
    assert ADA.with_tags(None) in memory, "without tags, words are enough"
    assert 1 in memory and np.int64(2) in memory and 3 not in memory and 2**80 not in memory and "Ada" not in memory
    assert memory[2] == OSLO
    for key in (0, 3, -1, 2**80):
        with pytest.raises(KeyError, match=str(key)):
            memory[key]
    assert memory.remove(1) == 1 and memory.remove([1, 7, 2**80, -3]) == 0
    assert memory.remove(np.array([2])) == 1
    assert list(memory) == []


def test_removing_while_iterating(memory: Memory) -> None:
    memory.add([numbered(i) for i in range(1000)])
    seen = []
    for key, _ in memory:
        seen.append(key)
        if key == 1:
            memory.remove(range(500, 1001))
    assert seen == list(range(1, 257)) + list(range(257, 500))


def test_sources_are_kept_and_removed_by_name(memory: Memory) -> None:
    memory.add([ADA, OSLO], source="first.conll")
    memory.add(numbered(1))
    memory.add([numbered(2), ADA], source="second.conll")
    assert memory.sources() == {"first.conll": [1, 2], "": [3], "second.conll": [4]}
    memory.remove(memory.sources()["first.conll"])
    assert memory.sources() == {"": [3], "second.conll": [4]}


def test_it_says_what_it_is(memory: Memory) -> None:
    memory.add([ADA, OSLO])
    assert "2 sentences" in repr(memory)
    memory.close()
    assert "closed" in repr(memory)


def test_a_memory_in_ram_from_a_file_leaves_the_file_alone(encoder: FakeEncoder, path) -> None:
    with Memory(encoder, path) as memory:
        memory.add([ADA, OSLO])
        memory.remove(1)
        live = Memory.load(encoder, path)  # while the file is open for writing
        assert list(live) == [(2, OSLO)]
    before = path.read_bytes()
    with Memory.load(encoder, path) as loaded:
        assert loaded.path is None and not loaded.read_only
        assert loaded.add(numbered(1)) == [3]
        assert list(loaded) == [(2, OSLO), (3, numbered(1))]
    assert path.read_bytes() == before
    assert live.add(ADA) == [3]
    live.close()


def test_rebuild_embeds_everything_with_the_new_encoder(memory: Memory) -> None:
    sentences = [numbered(i) for i in range(50)]
    memory.add(sentences)
    memory.remove(3)
    other = FakeEncoder("fake-2", dim=24, types=["PER", "MISC"])
    memory.rebuild(other)
    del sentences[2]
    assert memory.encoder is other
    np.testing.assert_array_equal(memory.vectors, other.embed(sentences))
    assert [s for _, s in memory] == sentences
    assert memory.search(other.embed([sentences[7]]), 1)[0][0].sentence == sentences[7]
    memory.add(labelled("Ada MISC", MISC="MISC"))
    assert len(memory) == 50


def test_rebuild_after_the_encoder_was_trained(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add([ADA, OSLO])
    encoder.fingerprint = "fake-1, trained"
    memory.rebuild()
    np.testing.assert_array_equal(memory.vectors, encoder.embed([ADA, OSLO]))
    memory.check()


def test_sentences_added_during_a_rebuild_are_in_it(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add([ADA, OSLO])
    other = FakeEncoder("fake-2")
    late = [numbered(1)]

    def meanwhile() -> None:
        if late:
            memory.add(late.pop())
            assert memory.search(encoder.embed([ADA]), 1)[0][0].id == 1, "searches go on, on the old vectors"

    other.before_embed = meanwhile
    memory.rebuild(other)
    np.testing.assert_array_equal(memory.vectors, other.embed([ADA, OSLO, numbered(1)]))


def test_what_was_known_but_removed_while_embedding_is_added_after_all(memory: Memory, encoder: FakeEncoder) -> None:
    memory.add(ADA)
    first = [lambda: memory.remove(1)]
    encoder.before_embed = lambda: first and first.pop()()
    assert memory.add([ADA, OSLO]) == [2, 3]
    assert list(memory) == [(2, ADA), (3, OSLO)]


def test_an_empty_memory_takes_whatever_encoder_comes(memory: Memory, encoder: FakeEncoder) -> None:
    encoder.fingerprint, encoder.dim = "trained", 32
    memory.check()
    assert memory.search(encoder.embed([ADA]), 1) == [[]]
    memory.add(ADA)
    assert memory.vectors.shape == (1, 32)
    assert memory.search(encoder.embed([ADA]), 1)[0][0].sentence == ADA

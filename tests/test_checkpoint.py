"""Model folders: what is saved loads here and in transformers, and bad folders are refused with advice."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, CORPUS, TAGS, model_of, network_of, tokenizer_of
from transformers import AutoModelForTokenClassification, AutoTokenizer

from pymetaner import adapt
from pymetaner.errors import (
    EncoderMismatchError,
    LabelSchemeError,
    MemoryFileError,
    ModelFileError,
    SaveError,
    SettingError,
    UnsupportedModelError,
)
from pymetaner.memory import Memory
from pymetaner.model import MetaNER
from pymetaner.sentence import Sentence
from pymetaner.settings import Settings
from pymetaner.words import sentence_from_text

TEXT = "Ada Lovelace wrote to Charles Babbage in London."


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def same_weights(one: MetaNER, other: MetaNER) -> bool:
    first, second = one.network.state_dict(), other.network.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- loading ----


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_checkpoint_of_transformers_loads_as_it_is(checkpoint_of, name, tmp_path):
    folder = checkpoint_of(name)
    model = MetaNER.from_pretrained(folder)
    assert model.labels.tags == TAGS
    assert model.types == {"PER", "ORG", "LOC"}
    assert (model.settings.decoding, model.settings.window) == ("argmax", 64)
    assert not model.network.training
    plain = AutoModelForTokenClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = list(CORPUS[0].words)
    if name != "modernbert":  # its tokenizer takes split words without the space before them
        with torch.no_grad():
            logits = plain(**tokenizer(words, is_split_into_words=True, return_tensors="pt")).logits
        np.testing.assert_allclose(
            model.read(CORPUS[:1])[0].logits, logits[0, list(model.words.windows(CORPUS[:1])[0].positions)], atol=2e-5
        )
    model.memory.add(CORPUS)
    result = adapt(model, TEXT, lr=0.1)
    assert len(result.supports) == 2

    model.save_pretrained(tmp_path)
    again = MetaNER.from_pretrained(tmp_path)
    assert same_weights(again, model)
    assert (again.labels, again.settings, again.fingerprint) == (model.labels, model.settings, model.fingerprint)
    assert adapt(again, TEXT, lr=0.1) == result
    theirs, report = AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {int(i): tag for i, tag in theirs.config.id2label.items()} == dict(enumerate(TAGS))
    assert theirs.config.label2id == {tag: i for i, tag in enumerate(TAGS)}
    ids = torch.tensor([model.words.windows(CORPUS[:1])[0].ids])
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, model.network(ids).logits)


@pytest.mark.parametrize(
    ("tags", "notation", "types"),
    [
        (("O", "I-PER", "I-LOC"), "IO", {"PER", "LOC"}),
        (("B-LOC", "I-LOC", "I-PER", "O"), "IOB1", {"PER", "LOC"}),
        (("O", "B-PER", "I-PER", "E-PER", "S-PER"), "BIOES", {"PER"}),
        (("O", "PER", "LOC"), "IO", {"PER", "LOC"}),
    ],
)
def test_label_notations_of_checkpoints(tmp_path, tags, notation, types):
    network_of("bert", tags=tags).save_pretrained(tmp_path)
    tokenizer_of("wordpiece").save_pretrained(tmp_path)
    model = MetaNER.from_pretrained(tmp_path)
    assert (model.labels.notation, model.types) == (notation, types)
    model.memory.add([s for s in CORPUS if {e.label for e in s.entities} <= types])
    assert {e.label for r in adapt(model, [list(s.words) for s in CORPUS], lr=0.1) for e in r.entities} <= types


def test_labels_of_a_checkpoint_without_names(tmp_path):
    network_of("bert", tags=("LABEL_0", "LABEL_1", "LABEL_2")).save_pretrained(tmp_path)
    tokenizer_of("wordpiece").save_pretrained(tmp_path)
    with pytest.raises(LabelSchemeError, match=r"'LABEL_0', 'LABEL_1', 'LABEL_2'.*no label is 'O'.*labels="):
        MetaNER.from_pretrained(tmp_path)
    with pytest.raises(LabelSchemeError, match="2 labels for a head of 3 logits"):
        MetaNER.from_pretrained(tmp_path, labels=["O", "I-PER"])
    model = MetaNER.from_pretrained(tmp_path, labels=["B-PER", "I-PER", "O"])
    assert model.labels.tags == ("B-PER", "I-PER", "O")
    model.save_pretrained(tmp_path / "named")
    assert MetaNER.from_pretrained(tmp_path / "named").labels == model.labels


def test_labels_with_a_gap(checkpoint_of, tmp_path):
    folder = copied(checkpoint_of("bert"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i + (i > 2)): tag for i, tag in enumerate(TAGS)}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LabelSchemeError, match="expected all from 0 to 6"):
        MetaNER.from_pretrained(folder)


def test_weights_of_half_precision_load_as_float32_unless_asked(tmp_path):
    network_of("bert").half().save_pretrained(tmp_path / "half")
    tokenizer_of("wordpiece").save_pretrained(tmp_path / "half")
    model = MetaNER.from_pretrained(tmp_path / "half")
    assert model.network.dtype == torch.float32
    for packed in (False, True):
        model.save_pretrained(tmp_path / "saved", packed=packed)
        again = MetaNER.from_pretrained(tmp_path / "saved")
        assert {p.dtype for p in again.parameters()} == {torch.float32}
        assert same_weights(again, model)
    model.save_pretrained(tmp_path / "saved")
    assert AutoModelForTokenClassification.from_pretrained(tmp_path / "saved").dtype == torch.float32
    assert MetaNER.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16).network.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_memory_is_embedded_anew_where_the_type_rounds_the_weights(tmp_path, dtype):
    model = model_of("bert")
    model.memory.add(CORPUS)
    model.save_pretrained(tmp_path / "m")
    half = MetaNER.from_pretrained(tmp_path / "m", dtype=dtype)
    assert half.memory.encoder is half and len(half.memory) == len(CORPUS)
    assert np.allclose(half.memory.vectors, half.embed(CORPUS), atol=2e-2)
    (found,) = adapt(half, [list(CORPUS[0].words)], k=1)
    assert [support.sentence for support in found.supports] == [CORPUS[0]]
    half.save_pretrained(tmp_path / "half")
    again = MetaNER.from_pretrained(tmp_path / "half", dtype=dtype)
    assert np.array_equal(again.memory.vectors, half.memory.vectors)
    model_of("bert", seed=1).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "m" / "memory.sqlite", tmp_path / "other")
    with pytest.raises(EncoderMismatchError):
        MetaNER.from_pretrained(tmp_path / "other", dtype=dtype)


def test_a_local_folder_never_touches_the_network(checkpoint_of, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ARCHITECTURES:
        MetaNER.from_pretrained(str(checkpoint_of(name))).save_pretrained(tmp_path / name)
        MetaNER.from_pretrained(tmp_path / name)
        MetaNER.from_encoder(tmp_path / name, ["PER"])


def test_a_hub_id_goes_through_the_hub(checkpoint_of, monkeypatch):
    asked = {}

    def download(repository, **options):
        asked.update(repository=repository, **options)
        return str(checkpoint_of("bert"))

    monkeypatch.setattr("pymetaner.checkpoint.loading.snapshot_download", download)
    model = MetaNER.from_pretrained("someone/some-model", revision="v1", token="secret")
    assert model.types == {"PER", "ORG", "LOC"}
    assert (asked["repository"], asked["revision"], asked["token"]) == ("someone/some-model", "v1", "secret")
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])


def test_push_to_hub_uploads_a_saved_folder(monkeypatch):
    model = model_of("bert")
    model.memory.add(CORPUS)
    uploaded = {}

    class Api:
        def __init__(self, *arguments, **options): ...

        def create_repo(self, repo_id, **options):
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, *, folder_path, repo_id, **options):
            uploaded[repo_id] = files_of(Path(folder_path)).keys()

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    model.push_to_hub("someone/some-model")
    assert uploaded["someone/some-model"] >= {
        "config.json", "model.safetensors", "pymetaner.json", "memory.sqlite", "tokenizer.json"
    }  # fmt: skip


# ---- bad folders ----


def test_a_missing_folder_or_a_file_or_an_unreachable_id(tmp_path):
    with pytest.raises(ModelFileError, match=r"does not exist: give a folder"):
        MetaNER.from_pretrained(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(ModelFileError, match=r"is a file: give a folder"):
        MetaNER.from_pretrained(tmp_path / "file")
    with pytest.raises(ModelFileError, match=r"no folder 'nobody/nothing' here.*check the path"):
        MetaNER.from_pretrained("nobody/nothing")
    with pytest.raises(ModelFileError, match="no folder 'not a name!'"):
        MetaNER.from_pretrained("not a name!")


def damaged(folder: Path, name: str, how: str) -> None:
    path = folder / name
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (name, how)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "pymetaner.json")
        for how in ("missing", "truncated", "empty", "foreign")
        if (name, how) != ("pymetaner.json", "missing")  # that is a checkpoint made elsewhere
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_refused(tmp_path, name, how, packed):
    model_of("bert").save_pretrained(tmp_path, packed=packed)
    if packed and name == "model.safetensors":
        name = "model.packed.safetensors"
    damaged(tmp_path, name, how)
    with pytest.raises(ModelFileError) as error:
        MetaNER.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["truncated", "empty", "foreign"])
def test_a_damaged_memory_is_refused(model, tmp_path, how):
    model.save_pretrained(tmp_path)
    damaged(tmp_path, "memory.sqlite", how)
    with pytest.raises(MemoryFileError, match=r"memory\.sqlite"):
        MetaNER.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "modernbert", "deberta-v2"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path, name):
    """Of some architectures transformers then makes a tokenizer that knows nothing."""
    network_of(name).save_pretrained(tmp_path)
    for load in (MetaNER.from_pretrained, MetaNER.from_encoder):
        with pytest.raises(ModelFileError, match="tokenizer"):
            load(tmp_path)


def test_a_tokenizer_of_another_model(tmp_path):
    network_of("bert", vocab_size=200).save_pretrained(tmp_path)
    tokenizer_of("wordpiece").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"knows 305 pieces, but the encoder only 200"):
        MetaNER.from_pretrained(tmp_path)
    network_of("bert", vocab_size=2_000).save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=r"knows 305 pieces, but the encoder 2000: .*another model"):
        MetaNER.from_pretrained(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_may_be_loaded_in_inference_mode(tmp_path, packed):
    model_of("bert").save_pretrained(tmp_path, packed=packed)
    with torch.inference_mode():
        model = MetaNER.from_pretrained(tmp_path)
        model.memory.add(CORPUS)
        inside = adapt(model, TEXT, lr=0.1)
    assert adapt(model, TEXT, lr=0.1) == inside


def test_pickled_weights_are_never_read(tmp_path):
    network = network_of("bert")
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    tokenizer_of("wordpiece").save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=r"no \*\.safetensors file.*pickled weights are never read"):
        MetaNER.from_pretrained(tmp_path)
    save_file({"unrelated": torch.zeros(1)}, tmp_path / "adapter.safetensors")
    with pytest.raises(ModelFileError):
        MetaNER.from_pretrained(tmp_path)


def test_an_encoder_without_a_head_is_refused_with_advice(tmp_path):
    network_of("bert").base_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"]  # the names alone do not make a head
    tokenizer_of("wordpiece").save_pretrained(tmp_path)
    with pytest.raises(ModelFileError, match=r"encoder without a token-classification head.*from_encoder"):
        MetaNER.from_pretrained(tmp_path)


def test_weights_of_another_size_or_of_nothing_known(tmp_path, checkpoint_of):
    folder = copied(checkpoint_of("bert"), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    fewer = {name: t for name, t in tensors.items() if "layer.1.output.dense" not in name}
    save_file(fewer, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"lack 2 tensors of the encoder, e\.g\. 'bert\.encoder\.layer\.1"):
        MetaNER.from_pretrained(folder)
    wider = {**tensors, "bert.encoder.layer.1.output.dense.weight": torch.zeros(17, 24)}
    save_file(wider, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match="another model"):
        MetaNER.from_pretrained(folder)


def test_architectures_that_cannot_be_adapted(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UnsupportedModelError, match=r"'vit' model.*no token-classification class"):
        MetaNER.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-known"}))
    with pytest.raises(ModelFileError, match=r"nothing-known"):
        MetaNER.from_pretrained(tmp_path)
    from transformers import AlbertConfig, AlbertForTokenClassification

    albert = AlbertForTokenClassification(
        AlbertConfig(
            vocab_size=300, hidden_size=16, embedding_size=8, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=24, id2label=dict(enumerate(TAGS)), label2id={tag: i for i, tag in enumerate(TAGS)},
        )
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match=r"AlbertForTokenClassification cannot be adapted .*3 layers"):
        MetaNER(albert, tokenizer_of("wordpiece"))


def test_settings_of_a_later_format_or_with_bad_values(tmp_path):
    model_of("bert").save_pretrained(tmp_path)
    path = tmp_path / "pymetaner.json"
    values = json.loads(path.read_text())
    more = {**values, "hue": "blue", "lr": {**values["lr"], "sgd": 0.5, "adagrad": 0.1}}
    path.write_text(json.dumps(more))
    assert MetaNER.from_pretrained(tmp_path).settings.lr["sgd"] == 0.5  # what another release had more is left out
    path.write_text(json.dumps({**values, "format": 2}))
    with pytest.raises(ModelFileError, match=r"format 2.*reads format 1: upgrade"):
        MetaNER.from_pretrained(tmp_path)
    path.write_text(json.dumps({**values, "pooling": "max"}))
    with pytest.raises(ModelFileError, match=r"damaged \(pooling='max'"):
        MetaNER.from_pretrained(tmp_path)


# ---- settings and windows ----


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "distilbert", "modernbert"])
def test_no_window_is_longer_than_the_encoder_reads(name):
    longest = 64
    network, tokenizer = network_of(name), tokenizer_of(ARCHITECTURES[name][1])
    model = MetaNER(network, tokenizer)
    assert (model.settings.window, model.settings.overlap) == (longest, 16)
    text = " ".join(word for s in CORPUS for word in s.words)
    assert len(model.words.windows([sentence_from_text(text)])[0].ids) > longest - 20
    model.predict(text)
    with pytest.raises(SettingError, match=f"window={longest + 1}: this encoder reads {longest} pieces"):
        MetaNER(network, tokenizer, settings=Settings(window=longest + 1))


@pytest.mark.parametrize(
    "values",
    [
        {"pooling": "max"},
        {"decoding": "crf"},
        {"script": "latin"},
        {"window": "512"},
        {"window": 12.5},
        {"overlap": -1},
        {"freeze_layers": True},
        {"lr": {"sgd": 0.1, "bertadam": 0}},
        {"lr": {"sgd": 0.1, "bertadam": 1e-5, "adam": 1}},
    ],
)
def test_settings_out_of_range(values):
    with pytest.raises(SettingError, match=next(iter(values))):
        Settings(**values)


def test_freezing_more_layers_than_there_are():
    with pytest.raises(SettingError, match="freeze_layers=4: expected 0 to 3"):
        model_of("bert", freeze_layers=4)


# ---- a new head ----


@pytest.mark.parametrize("packed", [False, True])
def test_from_encoder_gives_a_new_head_that_the_seed_fixes(tmp_path, packed):
    old = model_of("bert")
    old.save_pretrained(tmp_path, packed=packed)
    state = torch.get_rng_state()
    same_size = MetaNER.from_encoder(tmp_path, ["PER", "ORG", "LOC"], seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    fewer = MetaNER.from_encoder(tmp_path, ["PER"])
    assert (same_size.labels.tags, fewer.labels.tags) == (TAGS, ("O", "B-PER", "I-PER"))
    assert fewer.network.config.id2label == {0: "O", 1: "B-PER", 2: "I-PER"}
    for model in (same_size, fewer):
        encoder = MetaNER.from_pretrained(tmp_path).network.bert.state_dict()
        assert all(torch.equal(t, encoder[name]) for name, t in model.network.bert.state_dict().items())
        assert model.settings.decoding == "viterbi"
        assert len(model.memory) == 0
    assert not torch.equal(same_size.network.classifier.weight, old.network.classifier.weight)
    again, other = (MetaNER.from_encoder(tmp_path, ["PER", "ORG", "LOC"], seed=seed) for seed in (3, 4))
    assert same_weights(again, same_size)
    assert not torch.equal(other.network.classifier.weight, same_size.network.classifier.weight)


def test_from_encoder_on_a_bare_encoder(tmp_path):
    network = network_of("xlm-roberta").base_model
    network.save_pretrained(tmp_path)
    tokenizer_of("unigram").save_pretrained(tmp_path)
    model = MetaNER.from_encoder(tmp_path, ["PER"], settings=Settings(window=32, overlap=8, freeze_layers=2))
    assert model.settings.window == 32
    assert torch.equal(
        model.network.roberta.encoder.layer[2].output.dense.weight, network.encoder.layer[2].output.dense.weight
    )


# ---- saving ----


def test_saving_over_a_model_replaces_it(model, tmp_path):
    model.save_pretrained(tmp_path, packed=False)
    (tmp_path / "README.md").write_text("mine")
    other = model_of("bert", seed=5, pooling="cls")
    other.save_pretrained(tmp_path, packed=True)
    assert not (tmp_path / "model.safetensors").exists()
    loaded = MetaNER.from_pretrained(tmp_path)
    assert len(loaded.memory) == 0
    assert loaded.settings.pooling == "cls"
    other.save_pretrained(tmp_path)
    assert not (tmp_path / "model.packed.safetensors").exists()
    assert same_weights(MetaNER.from_pretrained(tmp_path), other)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_memory_in_ram_or_on_a_file_is_saved_and_loaded(model, tmp_path):
    with Memory(model, tmp_path / "elsewhere.sqlite") as memory:
        memory.add(CORPUS[:5])
        model.memory = memory
        model.save_pretrained(tmp_path / "m")
        loaded = MetaNER.from_pretrained(tmp_path / "m")
        assert [s for _, s in loaded.memory] == CORPUS[:5]
        loaded.memory.add(CORPUS[5])
        assert len(MetaNER.from_pretrained(tmp_path / "m").memory) == 5  # until it is saved
        loaded.save_pretrained(tmp_path / "m")
        assert len(MetaNER.from_pretrained(tmp_path / "m").memory) == 6
        assert len(memory) == 5


def test_a_memory_open_on_the_folders_own_file_stays_there(model, tmp_path):
    model.save_pretrained(tmp_path)
    with Memory(model, tmp_path / "memory.sqlite") as memory:
        model.memory = memory
        memory.add(CORPUS[0].with_tags(["O"] * len(CORPUS[0])))
        model.save_pretrained(tmp_path)
        memory.remove(int(memory.ids[0]))
        model.save_pretrained(tmp_path)
        assert len(memory) == len(CORPUS)
    assert len(MetaNER.from_pretrained(tmp_path).memory) == len(CORPUS)


def test_a_memory_that_another_holds_open_is_not_replaced(model, tmp_path):
    model.save_pretrained(tmp_path)
    with Memory(model, tmp_path / "memory.sqlite") as live:
        live.add(CORPUS[0].with_tags(["O"] * len(CORPUS[0])))
        before = (tmp_path / "model.safetensors").read_bytes()
        with torch.no_grad():
            model.network.classifier.bias += 1
        with pytest.raises(SaveError, match="is open elsewhere"):
            model.save_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(MetaNER.from_pretrained(tmp_path).memory) == len(CORPUS) + 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_memory_of_old_weights_is_not_saved(model, tmp_path, packed):
    with torch.no_grad():
        model.network.bert.encoder.layer[0].output.dense.weight += 0.01
    with pytest.raises(EncoderMismatchError, match="rebuild"):
        model.save_pretrained(tmp_path / "m", packed=packed)
    assert not (tmp_path / "m").exists()
    model.memory.rebuild()
    model.save_pretrained(tmp_path / "m")
    assert len(MetaNER.from_pretrained(tmp_path / "m").memory) == len(CORPUS)


def test_packing_under_a_memory_asks_for_the_order_that_works(model, tmp_path):
    with pytest.raises(SettingError, match="save packed with an empty memory"):
        model.save_pretrained(tmp_path, packed=True)
    assert list(tmp_path.iterdir()) == []
    kept, model.memory = model.memory, Memory(model)
    model.save_pretrained(tmp_path, packed=True)
    small = MetaNER.from_pretrained(tmp_path)
    kept.rebuild(small)
    small.memory = kept
    small.save_pretrained(tmp_path, packed=True)
    loaded = MetaNER.from_pretrained(tmp_path)
    assert len(loaded.memory) == len(CORPUS)
    assert adapt(loaded, TEXT) == adapt(small, TEXT)
    assert loaded.fingerprint == small.fingerprint != model.fingerprint


@contextmanager
def files_no_larger_than(limit: int) -> Iterator[None]:
    """A disk that is full once a file has so many bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("limit", "packed", "memory"),
    [(100, False, False), (2_000, False, False), (20_000, False, False), (20_000, True, False), (60_000, False, True)],
)
def test_a_full_disk_leaves_the_old_model(model, tmp_path, limit, packed, memory):
    """The limits let through nothing, the config, the tokenizer as well, or all but the memory."""
    model.save_pretrained(tmp_path)
    before = files_of(tmp_path)
    sizes = {name: len(data) for name, data in before.items()}
    assert sizes["config.json"] < 2_000 < sizes["tokenizer.json"] < 20_000 < sizes["model.safetensors"] < 60_000
    other = model_of("bert", seed=1)
    if memory:
        other.memory.add([Sentence((*s.words, str(i)), (*s.tags, "O")) for s in CORPUS for i in range(20)])
    with files_no_larger_than(limit), pytest.raises(SaveError, match=r"could not be (saved|written)"):
        other.save_pretrained(tmp_path, packed=packed)
    assert files_of(tmp_path) == before
    assert same_weights(MetaNER.from_pretrained(tmp_path), model)
    other.save_pretrained(tmp_path, packed=packed)
    assert MetaNER.from_pretrained(tmp_path).fingerprint != model.fingerprint


def test_a_folder_that_cannot_be_made(model, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "m"):
        with pytest.raises(SaveError, match="cannot be saved"):
            model.save_pretrained(place)

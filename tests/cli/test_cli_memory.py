"""`pymetaner memory`."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import CORPUS, model_of

from pymetaner import Memory, MetaNER, Sentence, read
from pymetaner.cli.brackets import labelled
from pymetaner.errors import LabelMismatchError, SaveError, SpanError

ADA = "[PER Ada Lovelace] lived in [LOC London]."


@pytest.fixture
def memory(run: Any, folder: Path, tmp_path: Path) -> Path:
    """A memory file of three sentences."""
    file = tmp_path / "three.sqlite"
    run("memory", "add", file, ADA, "It rained.", "--model", folder, "--source", "typed")
    run("memory", "add", file, "[LOC Oslo] sleeps", "--model", folder)
    return file


def lines(run: Any, *arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("memory", "list", *arguments, "--jsonl").stdout.splitlines()]


def test_add_then_list(run: Any, memory: Path, folder: Path) -> None:
    rows = lines(run, memory)
    assert [(row["id"], row["text"]) for row in rows] == [
        (1, "Ada Lovelace lived in London."),
        (2, "It rained."),
        (3, "Oslo sleeps"),
    ]
    assert [(e["text"], e["label"]) for e in rows[0]["entities"]] == [("Ada Lovelace", "PER"), ("London", "LOC")]
    assert run("memory", "list", memory).stdout.splitlines()[0].split(maxsplit=1) == ["1", ADA]
    assert [row["id"] for row in lines(run, memory, "--limit", 2)] == [1, 2]
    assert [row["id"] for row in lines(run, memory, "--source", "typed")] == [1, 2]
    again = run("memory", "add", memory, ADA, "[LOC Rome] sleeps", "--model", folder)
    assert "1 sentence added (id 4), 1 there already" in again.stdout


def test_search_finds_what_adapt_would_learn_from(run: Any, folder: Path) -> None:
    text = "Marie Curie nació en Varsovia ."
    result = run("memory", "search", folder, text, "--k", 3, "--json")
    found = json.loads(result.stdout)
    supports = json.loads(run("adapt", "--model", folder, "--k", 3, "--json", text).stdout)[0]["supports"]
    assert [hit["text"] for hit in found] == [support["text"] for support in supports]
    assert [hit["similarity"] for hit in found] == pytest.approx([s["similarity"] for s in supports], abs=1e-6)
    shown = run("memory", "search", folder, text, "--k", 3).stdout.splitlines()
    assert [line.split()[1] for line in shown] == [str(hit["id"]) for hit in found]
    assert json.loads(run("memory", "search", folder, " ", "--json").stdout) == []


def test_remove(run: Any, memory: Path) -> None:
    assert "1 sentence removed, 2 left" in run("memory", "remove", memory, 3, 99).stdout
    assert "2 sentences removed, 0 left" in run("memory", "remove", memory, "--source", "typed").stdout
    assert lines(run, memory) == []


def test_remove_wants_to_know_what(run: Any, memory: Path) -> None:
    for arguments in ((), (1, "--all"), ("--source", "typed", "--all")):
        run("memory", "remove", memory, *arguments, exits=2)
    result = run("memory", "remove", memory, "--source", "elsewhere", exits=2)
    assert "'typed'" in result.stderr
    assert len(lines(run, memory)) == 3


@pytest.mark.parametrize("format", ["jsonl", "columns"])
def test_export_and_import(run: Any, memory: Path, folder: Path, tmp_path: Path, format: str) -> None:
    file, copy = tmp_path / f"out.{format}", tmp_path / "copy.sqlite"
    assert "3 sentences" in run("memory", "export", memory, file, "--format", format).stdout
    result = run("memory", "import", copy, file, "--model", folder)
    assert "3 sentences added" in result.stdout
    assert [row["entities"][:1] and row["entities"][0]["label"] for row in lines(run, copy)] == ["PER", [], "LOC"]
    assert json.loads(run("memory", "info", copy, "--json").stdout)["sources"] == {file.name: 3}


def test_import_of_types_that_the_model_does_not_tag(run: Any, folder: Path, tmp_path: Path) -> None:
    file, memory = tmp_path / "few.conll", tmp_path / "memory.sqlite"
    file.write_text("Ada\tB-PER\ntook\tO\nAspirin\tB-DRUG\n", encoding="utf-8")
    assert "give --types LOC,ORG,PER" in run("memory", "import", memory, file, "--model", folder, exits=1).stderr
    run("memory", "import", memory, file, "--model", folder, "--types", "PER")
    assert [[entity["label"] for entity in row["entities"]] for row in lines(run, memory)] == [["PER"]]


def test_a_memory_that_got_nothing_is_not_made(run: Any, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "new.sqlite"
    run("memory", "add", file, "[BAD Ada] slept", "--model", folder, exits=1)
    assert list(tmp_path.iterdir()) == []
    run("memory", "add", file, ADA, "--model", folder)
    run("memory", "add", file, "[BAD Ada] slept", "--model", folder, exits=1)
    assert len(lines(run, file)) == 1


def test_info(run: Any, folder: Path) -> None:
    facts = json.loads(run("memory", "info", folder, "--json").stdout)
    assert facts["sentences"] == len(CORPUS)
    assert facts["types"] == ["LOC", "ORG", "PER"]
    assert facts["encoder"] == MetaNER.from_pretrained(folder).fingerprint
    assert facts["sources"] == {"corpus": len(CORPUS)}
    assert "16" in run("memory", "info", folder).stdout


def test_a_folder_stands_for_its_model_and_its_memory(run: Any, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    run("memory", "add", copy, ADA)
    assert len(MetaNER.from_pretrained(copy).memory) == len(CORPUS) + 1


def test_a_memory_of_another_encoder(run: Any, memory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    model_of(seed=1).save_pretrained(other)
    result = run("adapt", "--model", other, "--memory", memory, "Ada", exits=1)
    assert f"pymetaner memory rebuild {memory}" in result.stderr
    assert len(lines(run, memory)) == 3  # listing needs no model
    assert "3 sentences embedded again" in run("memory", "rebuild", memory, "--model", other).stdout
    assert len(Memory(MetaNER.from_pretrained(other), memory)) == 3
    run("adapt", "--model", other, "--memory", memory, "Ada")


def test_a_folder_whose_memory_is_of_another_model(run: Any, memory: Path, tmp_path: Path) -> None:
    other, aside = tmp_path / "other", tmp_path / "aside.sqlite"
    model_of(seed=1).save_pretrained(other)
    shutil.copy(memory, other / "memory.sqlite")
    result = run("adapt", "--model", other, "Ada", exits=1)
    assert "do not belong together" in result.stderr and "memory.sqlite elsewhere" in result.stderr
    (other / "memory.sqlite").rename(aside)  # what the message says to do
    run("memory", "rebuild", aside, "--model", other)
    aside.rename(other / "memory.sqlite")
    assert len(json.loads(run("adapt", "--model", other, "--json", "Ada").stdout)[0]["supports"]) == 2


def test_what_is_no_memory(run: Any, tmp_path: Path) -> None:
    run("memory", "list", tmp_path / "none.sqlite", exits=1)
    (tmp_path / "text").write_text("no memory")
    for command in ("list", "info"):
        assert "Traceback" not in run("memory", command, tmp_path / "text", exits=1).stderr
    assert not (tmp_path / "none.sqlite").exists()


def test_a_wrong_sentence_changes_nothing(run: Any, memory: Path, folder: Path) -> None:
    result = run("memory", "add", memory, "[LOC Bergen] is wet", "[CITY Bergen] is wet", "--model", folder, exits=1)
    assert "'CITY' is not an entity type" in result.stderr
    assert len(lines(run, memory)) == 3


def test_brackets() -> None:
    types = {"PER", "LOC"}
    sentence = labelled(r"[PER  Ada  Lovelace ] wrote \[sic\] in [LOC Ockham]'s \\ park", types)
    assert sentence.text == r"Ada  Lovelace wrote [sic] in Ockham's \ park"
    assert [(e.text, e.label) for e in sentence.entities] == [("Ada  Lovelace", "PER"), ("Ockham", "LOC")]
    assert labelled("", types).words == ()
    assert labelled("[LOC 京都]は", types).entities[0].text == "京都"
    for wrong in ("[Ada]", "Ada]", "[PER Ada", "[PER [LOC x]]", "[PER ]"):
        with pytest.raises(SpanError):
            labelled(wrong, types)
    with pytest.raises(LabelMismatchError):
        labelled("[ORG UNESCO]", types)


def test_brackets_read_what_list_prints(run: Any, folder: Path, tmp_path: Path) -> None:
    printed = [line.split(maxsplit=1)[1] for line in run("memory", "list", folder).stdout.splitlines()]
    for text, sentence in zip(printed, CORPUS, strict=True):
        typed = labelled(text, {"PER", "ORG", "LOC"})
        assert [(e.text, e.label) for e in typed.entities] == [(e.text, e.label) for e in sentence.entities]
    run("memory", "export", folder, tmp_path / "out.conll", "--format", "columns")
    assert [s.words for s in read(tmp_path / "out.conll")] == [s.words for s in CORPUS]


def test_calibrated_settings_are_used_where_none_are_given(run: Any, folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.sqlite"
    shutil.copy(folder / "memory.sqlite", own)
    text = "Marie Curie nació en Varsovia ."
    adapting = ("adapt", "--model", folder, "--memory", own, "--json", text)
    assert len(json.loads(run(*adapting).stdout)[0]["supports"]) == 2  # by default
    told = run("memory", "calibrate", own, "--model", folder).stdout
    with Memory(MetaNER.from_pretrained(folder), own, read_only=True) as memory:
        found = memory.calibration
    assert found is not None and str(found) in told and "F1" in told
    assert len(json.loads(run(*adapting).stdout)[0]["supports"]) == found["k"]
    assert len(json.loads(run(*adapting, "--k", 3).stdout)[0]["supports"]) == 3


def test_unlabelled_text_comes_with_the_models_own_tags(run: Any, folder: Path, tmp_path: Path) -> None:
    text, file = tmp_path / "text.txt", tmp_path / "new.sqlite"
    text.write_text("\n".join(sentence.text for sentence in CORPUS[:4]) + "\n\n", encoding="utf-8")
    told = run("memory", "import-text", file, text, "--model", folder, "--confidence", 0).stdout
    rows = lines(run, file)
    assert f"{text}: 4 sentences, {len(rows)} sentence" in told
    assert {row["text"] for row in rows} <= {sentence.text for sentence in CORPUS[:4]} and rows
    shown = json.loads(run("predict", "--model", folder, "--json", rows[0]["text"]).stdout)[0]
    assert [(e["text"], e["label"]) for e in shown["entities"]] == [
        (e["text"], e["label"]) for e in rows[0]["entities"]
    ]
    assert "0 sentences added" in run("memory", "import-text", file, text, "--model", folder, "--confidence", 1).stdout
    text.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in run("memory", "import-text", file, text, "--model", folder, exits=1).stderr


def test_only_what_adds_makes_a_file(run: Any, folder: Path, tmp_path: Path) -> None:
    for command in (("calibrate",), ("search", "Ada"), ("rebuild",), ("remove", "--all"), ("export", tmp_path / "out")):
        told = run("memory", command[0], tmp_path / "typo.sqlite", *command[1:], exits=1).stderr
        assert "typo.sqlite" in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_export_onto_the_memory_itself(run: Any, memory: Path) -> None:
    assert "is the memory itself" in run("memory", "export", memory, memory, exits=1).stderr
    assert len(lines(run, memory)) == 3


def test_a_config_beside_a_memory_makes_no_model_of_its_folder(run: Any, memory: Path, folder: Path) -> None:
    (memory.parent / "config.json").write_text("{}")
    told = run("memory", "calibrate", memory, exits=1).stderr
    assert "cannot be read as a model config" not in told and "--model" in told, "the model that comes with pymetaner"
    for file in folder.iterdir():
        shutil.copy(file, memory.parent)
    assert "1 sentence added" in run("memory", "add", memory, "[LOC Rome] sleeps").stdout, "now it is a model's"


def test_a_model_saved_where_its_memory_was_changed_meanwhile(run: Any, folder: Path, tmp_path: Path) -> None:
    """Neither by an older copy nor, where that is empty, by none may the newer memory be replaced."""
    own = tmp_path / "model"
    shutil.copytree(folder, own)
    full, cleared = MetaNER.from_pretrained(own), MetaNER.from_pretrained(own)
    cleared.memory.clear()
    run("memory", "add", own, ADA)
    for model in (full, cleared):
        with pytest.raises(SaveError, match="changed by others"):
            model.save_pretrained(own)
    assert len(lines(run, own)) == len(CORPUS) + 1
    newest = MetaNER.from_pretrained(own)
    newest.memory.clear()
    newest.save_pretrained(own)
    assert not (own / "memory.sqlite").exists()


def test_a_sentence_of_any_length_is_a_line_and_a_source_is_shown_without_controls(run: Any, tmp_path: Path) -> None:
    model = model_of()
    with Memory(model, tmp_path / "m.sqlite") as memory:
        memory.add(Sentence(("Ada", *["slept"] * 3000), ("B-PER", *["O"] * 3000)), source="\x1b[31mred\nline")
    assert len(run("memory", "list", tmp_path / "m.sqlite").stdout.splitlines()) == 1
    shown = run("memory", "info", tmp_path / "m.sqlite").stdout
    assert "\x1b" not in shown and "red" in shown and len(shown.splitlines()) == 7


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_an_export_goes_into_a_pipe(folder: Path) -> None:
    command = shlex.join([sys.executable, "-m", "pymetaner", "memory", "export", str(folder), "/dev/stdout"])
    done = subprocess.run(["sh", "-c", f"{command} | cat"], capture_output=True, text=True, check=True)
    assert len([line for line in done.stdout.splitlines() if line.startswith("{")]) == len(CORPUS)

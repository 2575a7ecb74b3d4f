"""The paper's table: every score once, resumable, and a bootstrap that can tell a difference from none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CORPUS, TAGS, model_of, network_of, tokenizer_of

from pymetaner import MetaNER, Sentence
from pymetaner.errors import SettingError
from pymetaner.readers import write

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import errors, low_resource, memory_table, one_step, records, sampling
from benchmarks.paper import runs, table

# Like the corpus, but with other words: what learns from the one is never scored on its own sentences.
TEST = [Sentence((*sentence.words, "!"), (*(sentence.tags or ()), "O")) for sentence in CORPUS]


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    network_of("bert", tags=TAGS).base_model.save_pretrained(folder / "encoder")
    tokenizer_of("wordpiece").save_pretrained(folder / "encoder")
    files = {*runs.TEST.values(), *runs.UNLABELLED.values(), "conll2003/en/train.txt", "conll2003/en/dev.txt"}
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, TEST if name in runs.TEST.values() else CORPUS, "columns")
    return runs.Plan(
        encoder=str(folder / "encoder"),
        data=folder,
        out=folder / "runs",
        results=folder / "results" / "paper.jsonl",
        device="cpu",
        steps=2,
        languages=("es", "nl"),
        ks=(1, 2),
        texts=4,
        most=6,
        source=12,
    )


def test_every_score_is_made_once(plan):
    runs.run(plan, "full", 95)
    lines = list(records.lines(plan.results))
    ways = [(line["lang"], line["adapted"], line["memory"], line["k"]) for line in lines]
    assert len(set(ways)) == len(ways)
    expected = ((False, None, 0), (True, "english", 1), (True, "english", 2), (True, "unlabelled", "all"))
    assert set(ways) == {(lang, *way) for lang in ("es", "nl") for way in expected}
    assert all(line.keys() >= {"row", "seed", "lang", "adapted", "k", "f1", "dev_f1", "commit"} for line in lines)
    for line in lines:
        counts = np.load(plan.out / "full-95" / f"{line['lang']}-{line['memory']}-{line['k']}-6.npy")
        correct, predicted, labelled = counts.sum(0)
        assert line["f1"] == pytest.approx(200 * correct / (predicted + labelled), abs=1e-3)
    before = plan.results.read_text()
    runs.run(plan, "full", 95)
    assert plan.results.read_text() == before
    runs.run(replace(plan, languages=("es", "de")), "full", 95)  # goes on with what is missing
    assert plan.results.read_text().startswith(before)
    assert {line["lang"] for line in records.lines(plan.results)} == {"es", "nl", "de"}


def test_scores_of_another_encoder_or_run_are_not_taken_for_those_asked_for(plan, tmp_path):
    plan = replace(plan, languages=("es",), ks=(), texts=0, results=tmp_path / "scores.jsonl", out=tmp_path / "runs")
    runs.run(plan, "base", 95)
    before = plan.results.read_text()
    other = tmp_path / "encoder"
    network_of("bert", tags=TAGS, seed=1).base_model.save_pretrained(other)
    tokenizer_of("wordpiece").save_pretrained(other)
    with pytest.raises(SettingError, match="scores of another encoder"):
        runs.run(replace(plan, encoder=str(other)), "base", 95)
    for changed in ({"encoder": str(other)}, {"steps": 3}):
        with pytest.raises(SettingError, match="holds a finished run with other"):
            runs.run(replace(plan, results=tmp_path / "others.jsonl", **changed), "base", 95)
    assert plan.results.read_text() == before and not (tmp_path / "others.jsonl").exists()


@pytest.mark.parametrize(("row", "members"), runs.MEMBERS.items())
def test_the_mean_of_rows_is_one_more_row(plan, row, members):
    plan = replace(plan, languages=("es",), ks=(), texts=0, results=plan.results.with_name(f"{row}.jsonl"))
    runs.run(plan, row, 95)
    assert [(line["row"], line["lang"], line["memory"]) for line in records.lines(plan.results)] == [(row, "es", None)]
    mean = MetaNER.from_pretrained(plan.out / f"{row}-95")
    members = [MetaNER.from_pretrained(plan.out / f"{member}-95").network for member in members]
    bias = torch.stack([network.classifier.bias for network in members]).mean(0)
    assert torch.allclose(mean.network.classifier.bias, bias)
    before = (plan.out / f"{row}-95" / "training.json").read_text()
    runs.run(plan, row, 95)
    assert (plan.out / f"{row}-95" / "training.json").read_text() == before


def test_as_many_base_runs_with_other_batches_have_a_mean_too(plan):
    plan = replace(plan, languages=("es",), ks=(), texts=0, results=plan.results.with_name("base-averaged.jsonl"))
    runs.run(plan, runs.BASE_AVERAGED, 495)
    assert [(line["row"], line["seed"]) for line in records.lines(plan.results)] == [("base-averaged", 495)]
    folders = [plan.out / name for name in ("base-495", "base-495-95", "base-495-539", "base-495-667")]
    reports = [json.loads((folder / "training.json").read_text()) for folder in folders]
    assert [report["settings"]["seed"] for report in reports] == [495, 95, 539, 667]
    biases = [MetaNER.from_pretrained(folder).network.classifier.bias for folder in folders]
    assert not torch.equal(biases[0], biases[1])
    mean = MetaNER.from_pretrained(plan.out / "base-averaged-495").network.classifier.bias
    assert torch.allclose(mean, torch.stack(biases).mean(0))


def test_the_table_has_what_was_written_down(tmp_path):
    results = tmp_path / "paper.jsonl"
    for row, seed, f1 in (("base", 95, 60.0), ("base", 495, 62.0), ("full", 95, 61.0), ("full", 495, 65.0)):
        for lang in runs.TEST:
            note = {"row": row, "seed": seed, "lang": lang, "memory": None, "k": 0}
            records.append(results, {**note, "f1": f1})
    pair = {"row": ["full", None, 0], "against": ["base", None, 0], "seeds": 2}
    ways = {way: {"difference": 2.0, "p": 0.01} for way in (*runs.TEST, "mean")}
    records.append(tmp_path / "paper_bootstrap.jsonl", {**pair, **ways})
    (tmp_path / "results.md").write_text(
        "# Results\n\nbefore\n\n<!-- table: python -m benchmarks.paper -->\nold\n<!-- end of table -->\nafter\n"
    )
    table.write_table(results, tmp_path / "runs", tmp_path / "results.md")
    page = (tmp_path / "results.md").read_text()
    assert "| base | 61.00 ± 1.41 (2) |" in page and "before" in page and "after" in page and "old" not in page
    assert "76.75" in page  # the paper's own beside it
    assert not any(line.startswith(f"| {row} |") for row in ("mask", "base-averaged") for line in page.split("\n"))
    assert "| full over base |" in page and "| +2.00 (0.020) | +2.00 ± 1.00 (2), p 0.295 |" in page  # +1 and +3


def test_a_pair_is_compared_again_once_there_are_more_seeds(tmp_path):
    results, chance = tmp_path / "paper.jsonl", np.random.default_rng(0)
    for seed in (95, 495):
        for row in ("base", "mask"):
            (tmp_path / "runs" / f"{row}-{seed}").mkdir(parents=True)
            for lang in runs.TEST:
                counts = chance.integers(0, 3, size=(20, 3))
                np.save(tmp_path / "runs" / f"{row}-{seed}" / runs.counts_file(lang, (None, 0), None), counts)
                note = {"row": row, "seed": seed, "lang": lang, "memory": None, "k": 0}
                records.append(results, {**note, "f1": 50.0})
        for _ in range(2):  # the second time there is nothing to do
            table.write_table(results, tmp_path / "runs", tmp_path / "results.md")
    compared = list(records.lines(tmp_path / "paper_bootstrap.jsonl"))
    assert [line["seeds"] for line in compared] == [1, 2]
    page = (tmp_path / "results.md").read_text()
    assert page.count("| mask over base |") == 1
    assert f"| mask over base | {compared[1]['es']['difference']:+.2f} (" in page


def test_no_resample_without_a_gain_is_not_a_p_of_nought():
    assert [table._two_sided({"p": share}) for share in (0.0, 1.0, 0.005, 0.995, 0.5)] == [
        "<0.001", "<0.001", "0.010", "0.010", "1.000"
    ]  # fmt: skip


def test_a_few_sentences_that_differ_tell_as_little_whoever_has_the_better_ones():
    theirs = np.tile([1, 2, 2], (500, 1))
    ours = theirs.copy()
    ours[:2, 0] = 0
    found = [table._shares(table.bootstrap(np.stack(pair)[None])[1]) for pair in ((ours, theirs), (theirs, ours))]
    worse, better = (float(table._two_sided(shares)) for shares in found)
    assert worse == better > 0.2
    same = table._shares(table.bootstrap(np.stack([theirs, theirs])[None])[1])
    assert table._two_sided(same) == "1.000"


def test_the_number_of_supports_has_a_table_of_its_own(tmp_path):
    results = tmp_path / "paper.jsonl"
    # Seed 495 has no score with two supports, so it is in none of the means; base has not got that far at all.
    for row, seed, k, f1 in (
        ("full", 95, 0, 60.0), ("full", 95, 1, 60.5), ("full", 95, 2, 59.0), ("full", 495, 0, 60.0),
        ("full", 495, 1, 70.0), ("base", 495, 0, 60.0), ("base", 495, 1, 70.0),
    ):  # fmt: skip
        for lang in runs.TEST:
            note = {"row": row, "seed": seed, "lang": lang, "memory": "english" if k else None, "k": k}
            records.append(results, {**note, "sentences": 250, "f1": f1 + (lang == "nl" and k == 2)})
    table.write_table(results, tmp_path / "runs", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    cells = " | ".join(["+0.5 / -1.0", "+0.5 / +0.0", *["+0.5 / -1.0"] * 3, "+0.5 / -0.8"])
    assert f"| full (1 seed) | {cells} |\n" in page and "| base (" not in page
    assert "60.00" not in page  # which is not a score of the whole test set


def test_the_table_of_memories_tells_how_much_of_the_gap_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_table, "DOCS", tmp_path)
    monkeypatch.setattr(memory_table, "RESULTS", tmp_path / "memory.jsonl")
    scored = [("plain", 0, 70), ("plain", 1, 70), ("adapted+knn", 0, 77), ("adapted+knn", 1, 69), ("finetuned", 0, 80)]
    for method, draw, f1 in scored:
        line = {"lang": "es", "size": 1000, "draw": draw, "method": method, "f1": float(f1)}
        records.append(tmp_path / "memory.jsonl", line)
    (tmp_path / "results.md").write_text("before\n")
    memory_table.main()
    page = (tmp_path / "results.md").read_text()
    assert page.startswith("before\n")
    assert "| es | 1,000 | 70.00 (2) |  |  | 73.00 (2) | 80.00 (1) |  | +3.0 ± 4.0 | 70 % |  | 1 of 2 |" in page
    memory_table.main()
    assert (tmp_path / "results.md").read_text() == page


def test_the_table_of_memories_has_fine_tuning_at_one_rate_beside_the_best_of_each_draw(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_table, "DOCS", tmp_path)
    monkeypatch.setattr(memory_table, "RESULTS", tmp_path / "memory.jsonl")
    for draw, rates in enumerate(({"1e-05": 76.0, "0.0001": 80.0}, {"1e-05": 78.0, "0.0001": 75.0})):
        for method, f1 in (("plain", 70.0), ("adapted+knn", 75.0), ("finetuned", max(rates.values()))):
            line = {"lang": "es", "size": 10, "draw": draw, "method": method, "f1": f1}
            records.append(tmp_path / "memory.jsonl", line | ({"rates": rates} if method == "finetuned" else {}))
    memory_table.main()
    page = (tmp_path / "results.md").read_text()
    assert (
        "| es | 10 | 70.00 (2) |  |  | 75.00 (2) | 79.00 (2) | 77.50 (2) | +5.0 ± 0.0 | 56 ± 6 % | 67 ± 22 % | 0 of 2 |"
        in page
    )


def test_low_resource_scores_each_method_once(tmp_path, monkeypatch):
    monkeypatch.setattr(low_resource, "DOCS", tmp_path)
    monkeypatch.setattr(low_resource, "RESULTS", tmp_path / "low_resource.jsonl")
    model_of("bert").save_pretrained(tmp_path / "model")
    write(tmp_path / "es.conll", CORPUS, "columns")
    write(tmp_path / "test.conll", TEST, "columns")

    def run(percents):
        file, test, models = tmp_path / "es.conll", tmp_path / "test.conll", [f"base={tmp_path / 'model'}"]
        low_resource.main(file, test, "es", models, percents=percents, seeds=1, test_sentences=6, device="cpu")
        return list(records.lines(tmp_path / "low_resource.jsonl"))

    first = run("50")
    assert [line["method"] for line in first] == ["plain", "finetuned, 1e-05", "finetuned, 0.0001", "memory"]
    assert {(line["weights"], line["sentences"], line["test"]) for line in first} == {("base", 8, 6)}
    both = run("50,25")
    assert both[:4] == first and {line["sentences"] for line in both[4:]} == {4} and len(both) == 8
    page = (tmp_path / "results.md").read_text()
    assert f"| es | 50 % (8) | memory | {first[3]['f1']:.2f} (1) |" in page


def test_one_step_is_scored_once_for_each_k_and_step_size(tmp_path, monkeypatch):
    monkeypatch.setattr(one_step, "DOCS", tmp_path)
    results = tmp_path / "one_step.jsonl"
    model_of("bert").save_pretrained(tmp_path / "model")
    write(tmp_path / "es.conll", CORPUS, "columns")
    write(tmp_path / "test.conll", TEST, "columns")

    def run(ks, seed):
        file, test, models = tmp_path / "es.conll", tmp_path / "test.conll", [f"base={tmp_path / 'model'}"]
        one_step.main(
            file, test, "es", models, seed, 8, 1, ks=ks, lrs="own,0.5", test_sentences=6, device="cpu", results=results
        )
        return [{**line, "commit": ""} for line in records.lines(results)]

    first = run("2", 95)
    assert [(line["k"], line["lr"]) for line in first] == [(0, None), (2, None), (2, 0.5)]
    both = run("2,3", 95)
    assert both[:3] == first and [(line["k"], line["lr"]) for line in both[3:]] == [(3, None), (3, 0.5)]
    every = run("2", 495)
    assert [line["seed"] for line in every[5:]] == [495] * 3
    gain = first[2]["f1"] - first[0]["f1"]
    page = (tmp_path / "results.md").read_text()
    assert "| language | weights | plain | K=2 | K=3 | K=2, 0.5 | K=3, 0.5 |" in page
    assert f" {gain:+.1f} (2) |" in page and f"| es | base | {first[0]['f1']:.1f} |" in page


def test_the_bootstrap_tells_a_difference_from_none():
    drawn = np.random.default_rng(1)
    labelled = drawn.integers(1, 4, size=400)
    theirs = np.stack([drawn.binomial(labelled, 0.6), labelled, labelled], axis=1)
    same = np.stack([theirs, theirs])[None]
    difference, samples = table.bootstrap(same)
    assert difference == 0 and (samples == 0).all()
    better = theirs.copy()
    better[:, 0] = np.minimum(labelled, theirs[:, 0] + drawn.binomial(1, 0.2, size=400))
    difference, samples = table.bootstrap(np.stack([better, theirs])[None])
    assert difference > 2 and (samples > 0).all()
    noise = np.stack([np.roll(theirs[:, 0], 0), labelled, labelled], axis=1)
    noise[:, 0] = drawn.binomial(labelled, 0.6)
    _, samples = table.bootstrap(np.stack([noise, theirs])[None])
    assert 0.001 < (samples <= 0).mean() < 0.999


def test_nothing_that_is_drawn_has_the_words_of_a_test_sentence():
    sentences = [Sentence((f"w{i}",), ("O",)) for i in range(40)]
    all_of_them = sampling.drawn(sentences, 10, 0, [])
    assert len({sentence.words for sentence in all_of_them}) == 10
    assert sampling.drawn(sentences, 10, 0, [Sentence(("w-1",))]) == all_of_them
    fewer = sampling.drawn(sentences, 10, 0, [Sentence(all_of_them[3].words), Sentence(all_of_them[7].words)])
    assert len(fewer) == len({sentence.words for sentence in fewer}) == 10
    assert [sentence for sentence in all_of_them if sentence in fewer] == fewer[:8]
    assert sampling.drawn(sentences, 10, 1, []) != all_of_them
    assert len(sampling.drawn(sentences, 100, 0, sentences[:4])) == 36


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_a_score_names_the_commit_and_whether_the_code_was_changed_since(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setenv("COMMIT", "told")
    assert records.commit.__wrapped__() == "told"
    for name in ("pymetaner/engine.py", "benchmarks/results/memory.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for arguments in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "first")):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    (tmp_path / "benchmarks/results/memory.jsonl").write_text("2")
    commit = records.commit.__wrapped__()
    assert len(commit) >= 7 and not commit.endswith("+")
    (tmp_path / "pymetaner/engine.py").write_text("2")
    assert records.commit.__wrapped__() == f"{commit}+"


def test_kinds_of_mistakes():
    gold = [(0, 2, "PER"), (3, 4, "LOC"), (5, 7, "ORG"), (8, 9, "LOC"), (10, 11, "PER")]
    found = [(0, 2, "PER"), (3, 4, "ORG"), (5, 6, "ORG"), (7, 9, "PER"), (12, 13, "LOC")]
    assert errors.kinds(gold, found) == {
        "right": 1, "other type": 1, "other bounds": 1, "other type and bounds": 1, "missed": 1, "made up": 1
    }  # fmt: skip

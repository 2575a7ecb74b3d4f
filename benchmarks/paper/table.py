"""docs/results.md from the scores and, where they are at hand, the counts of each sentence."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_1samp

from benchmarks.paper.runs import AVERAGED, BASE_AVERAGED, MEANS, MEMBERS, ROWS, TEST, counts_file, scored
from benchmarks.records import append, lines, put
from pymetaner.learning import SupportCount

DOCS = Path(__file__).parents[2] / "docs"
SAMPLES = 2000
PUBLISHED = {
    "mBERT, base (Wu et al. 2020)": (74.59, 79.57, 70.79, 50.89, 76.42),
    "mBERT, Meta-Cross (Wu et al. 2020)": (76.75, 80.44, 73.16, 55.30, 77.89),
    "UniTrans (Wu et al. 2020b): translation, unlabelled target text": (79.31, 82.90, 74.82, None, None),
}
ALL_ROWS = (*ROWS, *MEANS)
Way = tuple[str, str | None, SupportCount]  # row, memory, k
Scores = dict[Way, dict[str, dict[int, float]]]  # -> language -> seed -> F1


def write_table(results: Path, runs: Path, page: Path, most: int | None = None) -> None:
    """Writes a page's tables of the scores on so many test sentences, None for all; the text around them stays."""
    scores = _scores(results, most)
    compare(results.with_name("paper_bootstrap.jsonl"), runs, scores, most)
    put(page, "python -m benchmarks.paper", _table(scores) + _tests(results, scores) + _by_k(results))


def _scores(results: Path, most: int | None) -> Scores:
    scores: Scores = defaultdict(lambda: defaultdict(dict))
    for line in scored(results, most):
        scores[line["row"], line.get("memory"), line["k"]][line["lang"]][line["seed"]] = line["f1"]
    return scores


def _by_k(results: Path) -> str:
    """What adapting on English supports changes, where several numbers were scored on the same test sentences."""
    table = []
    for most in sorted({line.get("sentences") for line in lines(results)}, key=lambda most: most or 0):
        scores = _scores(results, most)
        ks = sorted({k for _, memory, k in scores if memory == "english" and isinstance(k, int)})
        if len(ks) < 2:
            continue
        rows = []
        for row in ALL_ROWS:
            plain, adapted = scores[row, None, 0], [scores[row, "english", k] for k in ks]
            # The same seeds everywhere, since all of a line is compared.
            seeds = sorted(set.intersection(*(set(_complete(found)) for found in (plain, *adapted))))
            if not seeds:
                continue
            gains = [
                [statistics.mean(found[language][seed] - plain[language][seed] for seed in seeds) for found in adapted]
                for language in TEST
            ]
            means = [statistics.mean(of_k) for of_k in zip(*gains, strict=True)]
            cells = [" / ".join(f"{gain:+.1f}" for gain in cell) for cell in (*gains, means)]
            rows.append(f"| {row} ({len(seeds)} seed{'s' * (len(seeds) != 1)}) | " + " | ".join(cells) + " |")
        if rows:
            many = "whole test sets" if most is None else f"{most} test sentences"
            heading = f"| adapted on {', '.join(map(str, ks))} english over plain, {many} | "
            table += ["", heading + " | ".join((*TEST, "mean")) + " |", "|---|" + "---|" * (len(TEST) + 1), *rows]
    return "\n".join([*table, ""]) if table else ""


def _gains(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def _table(scores: Scores) -> str:
    table = ["| row | " + " | ".join(TEST) + " | mean |", "|---|" + "---|" * (len(TEST) + 1)]
    order = [(row, memory, k) for row in ALL_ROWS for memory, k in _ways(scores, row)]
    for row, memory, k in order:
        found = scores[row, memory, k]
        name = _name((row, memory, k))
        cells = [_cell(list(found.get(language, {}).values())) for language in TEST]
        seeds = [[found[language][seed] for language in TEST] for seed in _complete(found)]
        table.append(f"| {name} | " + " | ".join([*cells, _cell([statistics.mean(seed) for seed in seeds])]) + " |")
    for name, figures in PUBLISHED.items():
        known = [figure for figure in figures if figure is not None]
        mean = f"{statistics.mean(known):.2f}" if len(known) == len(figures) else ""
        cells = ["" if figure is None else f"{figure:.2f}" for figure in figures]
        table.append(f"| *{name}* | " + " | ".join([*cells, mean]) + " |")
    return "\n".join(table) + "\n"


def _ways(scores: Scores, row: str) -> list[tuple[str | None, SupportCount]]:
    ways = {(memory, k) for name, memory, k in scores if name == row}
    return sorted(ways, key=lambda way: (way[0] or "", str(way[1]).zfill(4)))


def _complete(found: dict[str, dict[int, float]]) -> list[int]:
    """The seeds that have a score in every language."""
    return sorted(set.intersection(*(set(found.get(language, {})) for language in TEST)))


def _cell(values: list[float]) -> str:
    """Mean, deviation and number of seeds."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({len(values)})"


# ---- paired bootstrap ----


def _pairs(scores: Scores) -> list[tuple[Way, Way]]:
    """Each row against base, adapted against plain, and what else the page speaks of."""
    pairs: list[tuple[Way, Way]] = [((row, None, 0), ("base", None, 0)) for row in ALL_ROWS if row != "base"]
    pairs += [(way, (way[0], None, 0)) for way in list(scores) if way[1] is not None]
    pairs += [(way, ("base", None, 0)) for way in list(scores) if way[1] == "unlabelled" and way[0] != "base"]
    pairs += [((mean, None, 0), (row, None, 0)) for mean, members in MEMBERS.items() for row in members]
    pairs.append(((AVERAGED, None, 0), (BASE_AVERAGED, None, 0)))
    pairs.append((("full", None, 0), ("mask+max", None, 0)))  # what the inner steps themselves are worth
    pairs += [(("full", "unlabelled", "all"), (row, "unlabelled", "all")) for row in ("base", "mask+max")]
    pairs.append((("averaged-pair", "unlabelled", "all"), ("full", "unlabelled", "all")))
    return [(ours, theirs) for ours, theirs in dict.fromkeys(pairs) if {ours, theirs} <= scores.keys()]


def compare(file: Path, runs: Path, scores: Scores, most: int | None) -> None:
    """Appends a paired bootstrap of each pair, of more seeds than it has one of already, where counts are at hand."""
    done = {(tuple(line["row"]), tuple(line["against"])): line["seeds"] for line in lines(file)}
    for ours, theirs in _pairs(scores):
        seeds = {lang: sorted(scores[ours][lang].keys() & scores[theirs][lang].keys()) for lang in TEST}
        if min(map(len, seeds.values())) <= done.get((ours, theirs), 0):
            continue
        paths = {
            lang: [
                (runs / f"{row}-{seed}" / counts_file(lang, (memory, k), most))
                for seed in seeds[lang]
                for row, memory, k in (ours, theirs)
            ]
            for lang in TEST
        }
        if not all(path.exists() for group in paths.values() for path in group):
            continue
        line: dict[str, object] = {"row": ours, "against": theirs, "seeds": min(map(len, seeds.values()))}
        every = []
        for language, group in paths.items():
            counts = np.stack([np.load(path) for path in group]).reshape(len(group) // 2, 2, -1, 3)
            difference, samples = bootstrap(counts)
            every.append((difference, samples))
            line[language] = {"difference": round(difference, 3), **_shares(samples)}
        mean = float(np.mean([difference for difference, _ in every]))
        line["mean"] = {"difference": round(mean, 3), **_shares(np.mean([samples for _, samples in every], axis=0))}
        append(file, line)


def _shares(samples: NDArray[np.float64]) -> dict[str, float]:
    """Of the samples, how many are not above 0, which is the one-sided `p`, and how many not below."""
    return {"p": float((samples <= 0).mean()), "not below": float((samples >= 0).mean())}


def bootstrap(counts: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """The difference of F1, mean over seeds, and that of resampled test sets (Efron; the same sentences for both).

    Args:
        counts: (seeds, 2, n, 3) correct, predicted and labelled entities of each sentence, ours and theirs.
    """
    drawn = np.random.default_rng(0)
    size = counts.shape[2]

    def difference(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        f1 = 200 * totals[..., 0] / np.maximum(1, totals[..., 1] + totals[..., 2])
        result: NDArray[np.float64] = (f1[..., 0] - f1[..., 1]).mean(-1)
        return result

    flat = counts.transpose(2, 0, 1, 3).reshape(size, -1).astype(np.float64)
    samples = [
        difference((drawn.multinomial(size, np.full(size, 1 / size)) @ flat).reshape(counts.shape[0], 2, 3))
        for _ in range(SAMPLES)
    ]
    return float(difference(flat.sum(0).reshape(counts.shape[0], 2, 3))), np.array(samples)


def _tests(results: Path, scores: Scores) -> str:
    # Of a pair that was compared again, with more seeds, the last line counts.
    found = {(*line["row"], *line["against"]): line for line in lines(results.with_name("paper_bootstrap.jsonl"))}
    table = ["", "| difference in F1 (p over test sentences) | " + " | ".join(TEST) + " | mean | over seeds |"]
    table.append("|---|" + "---|" * (len(TEST) + 2))
    for line in found.values():
        cells = [f"{line[way]['difference']:+.2f} ({_two_sided(line[way])})" for way in (*TEST, "mean")]
        cells.append(_over_seeds(scores, line["row"], line["against"]))
        table.append(f"| {_name(line['row'])} over {_name(line['against'])} | " + " | ".join(cells) + " |")
    for ours, theirs in _pairs(scores):  # those whose counts were never at hand together
        over_seeds = _over_seeds(scores, ours, theirs)
        if (*ours, *theirs) not in found and over_seeds:
            gains = [_gains(scores[ours][language], scores[theirs][language]) for language in TEST]
            cells = [f"{statistics.mean(each):+.2f}" for each in gains]
            table.append(f"| {_name(ours)} over {_name(theirs)} | " + " | ".join([*cells, "", over_seeds]) + " |")
    return "\n".join(table) + "\n"


def _two_sided(shares: dict[str, float]) -> str:
    """p that there is no difference; lines of before December 2026 lack a share, but have few samples of just 0."""
    return _p(min(1.0, 2 * min(shares["p"], shares.get("not below", 1 - shares["p"]))))


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<0.001"


def _over_seeds(scores: Scores, ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    """The mean difference of the seeds that both have in every language, its standard error, and p of a t test.

    The bootstrap draws test sentences anew and takes the trained models as they are; this is about training anew.
    """
    our, their = scores[ours[0], ours[1], ours[2]], scores[theirs[0], theirs[1], theirs[2]]
    seeds = sorted(set(_complete(our)) & set(_complete(their)))
    if len(seeds) < 2:
        return ""
    gains = [statistics.mean(our[lang][seed] - their[lang][seed] for lang in TEST) for seed in seeds]
    error = statistics.stdev(gains) / len(gains) ** 0.5
    p = _p(float(ttest_1samp(gains, 0.0).pvalue)) if error else ""
    return f"{statistics.mean(gains):+.2f} ± {error:.2f} ({len(gains)}), p {p}" if p else f"{gains[0]:+.2f} in each"


def _name(way: Sequence[object]) -> str:
    row, memory, k = way
    if memory == "unlabelled" and k == "all":
        return f"{row}, self-trained"
    return f"{row}" if memory is None else f"{row}, adapted on {k} {memory}"

"""python -m benchmarks.memory_table [--plot docs/memory.png]

The table of docs/results.md, and curves, from benchmarks/results/memory.jsonl: F1 of each method over the size of the
memory, mean of the draws, and how much of the gap between plain and fine-tuned adapting closes. Fine-tuned has the
learning rate that is best on the test sentences of each draw; `at one rate`, that which is best on average of all;
`gain` is that of `adapted+knn` over plain; ± are standard errors over the draws.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.memory import METHODS, RESULTS
from benchmarks.records import lines, put

DOCS = Path(__file__).parents[1] / "docs"
BEST = "adapted+knn"
AT_ONE_RATE = "at one rate"
Scores = dict[tuple[str, int], dict[str, dict[int, float]]]  # (language, size) -> method -> draw -> F1


def main(plot: Annotated[Path | None, typer.Option("--plot", help="a PNG to draw the curves in")] = None) -> None:
    """Writes what was scored so far."""
    scores: Scores = {}
    for line in lines(RESULTS):
        methods = scores.setdefault((line["lang"], line["size"]), {})
        methods.setdefault(line["method"], {})[line["draw"]] = line["f1"]
        for rate, f1 in line.get("rates", {}).items():
            methods.setdefault(f"finetuned, {rate}", {})[line["draw"]] = f1
    for methods in scores.values():
        rates = [methods[name] for name in list(methods) if name.startswith("finetuned, ")]
        if rates:
            methods[AT_ONE_RATE] = max(rates, key=lambda found: statistics.mean(found.values()))
    text = table(scores)
    put(DOCS / "results.md", "python -m benchmarks.memory_table", text)
    print(text)
    if plot is not None:
        curves(scores, plot)


def table(scores: Scores) -> str:
    """A line for each language and size."""
    names = [*METHODS.split(","), AT_ONE_RATE]
    last = ["gain", "of the gap", "of it at one rate", "draws below plain"]
    rows = ["| language | sentences | " + " | ".join([*names, *last]) + " |"]
    rows.append("|---|---|" + "---|" * (len(names) + len(last)))
    for (language, size), found in sorted(scores.items()):
        cells = [f"{statistics.mean(f.values()):.2f} ({len(f)})" if (f := found.get(name)) else "" for name in names]
        cells += [_gain(found), _closed(found, "finetuned"), _closed(found, AT_ONE_RATE), _below(found)]
        rows.append(f"| {language} | {size:,} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _gain(found: dict[str, dict[int, float]]) -> str:
    """What the best method gains over plain, with its standard error over the draws."""
    best, plain = found.get(BEST, {}), found.get("plain", {})
    gains = [best[draw] - plain[draw] for draw in best if draw in plain]
    if not gains:
        return ""
    error = f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.1f}" if len(gains) > 1 else ""
    return f"{statistics.mean(gains):+.1f}{error}"


def _closed(found: dict[str, dict[int, float]], reference: str) -> str:
    """The share of the gap between plain and fine-tuned that the best method closes, on draws that have all three.

    Mean gain over mean gap, with the standard error of such a ratio (Cochran 1977, section 2.11) over the draws.
    """
    plain, best, tuned = (found.get(name, {}) for name in ("plain", BEST, reference))
    draws = plain.keys() & best.keys() & tuned.keys()
    gains = [best[draw] - plain[draw] for draw in draws]
    gaps = [tuned[draw] - plain[draw] for draw in draws]
    if not draws or sum(gaps) <= 0:
        return ""
    share = sum(gains) / sum(gaps)
    if len(draws) == 1:
        return f"{100 * share:.0f} %"
    off = [gain - share * gap for gain, gap in zip(gains, gaps, strict=True)]
    error = statistics.stdev(off) / len(draws) ** 0.5 / statistics.mean(gaps)
    return f"{100 * share:.0f} ± {100 * error:.0f} %"


def _below(found: dict[str, dict[int, float]]) -> str:
    best, plain = found.get(BEST, {}), found.get("plain", {})
    return f"{sum(best[draw] < plain[draw] for draw in best if draw in plain)} of {len(best)}"


def curves(scores: Scores, path: Path) -> None:
    """One panel a language, one line a method, every draw a dot."""
    from matplotlib.figure import Figure

    languages = sorted({language for language, _ in scores})
    figure = Figure(figsize=(4 * len(languages), 3.6), layout="constrained")
    for axes, language in zip(figure.subplots(1, len(languages), squeeze=False)[0], languages, strict=True):
        sizes = sorted(size for known, size in scores if known == language)
        for number, method in enumerate(METHODS.split(",")):
            points = [(s, list(f.values())) for s in sizes if (f := scores[language, s].get(method))]
            color = f"C{number}"
            axes.plot([s for s, _ in points], [statistics.mean(f) for _, f in points], color=color, label=method)
            axes.scatter([s for s, f in points for _ in f], [x for _, f in points for x in f], s=8, color=color)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_title(language)
        axes.set_xlabel("labelled sentences")
    first = figure.axes[0]
    first.set_ylabel("F1")
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)

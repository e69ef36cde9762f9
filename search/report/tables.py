"""The paper's tables (Liu et al. 2021, Tables 1 to 3) with errors, their paired differences, and a legend."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from recon.evaluation.definitions import L1_WAVELET, TRUTH, TRUTH_IS
from search.report.compare import COMPARED, LEVEL, NAMES, Cell, Comparison, Difference, Row
from search.results.folder import UNTRAINED
from search.results.text import plain_table, render_markdown

Form = Literal["text", "markdown", "latex"]
_DIGITS = {"ssim": 4, "psnr": 2}


def tables(comparison: Comparison, against: Sequence[str] = ()) -> dict[str, pd.DataFrame]:
    """The paper's tables as text, by title.

    Table 1 compares STL, MTL and transfer on the scarce task; what stands for MTL is ``Comparison.best``. Tables 2 and
    3 list every network on the scarce and on each abundant task; below each stand the paired differences from
    ``COMPARED`` and from peers, where there are any, and from the rows that ``against`` names.

    Raises InputError where there is no such row.
    """
    others = [row for kind in (*COMPARED, *comparison.peers) if (row := comparison.baseline(kind))]
    others = list(dict.fromkeys([*others, *(comparison.row(name) for name in against)]))
    found = {f"Table 1: {comparison.scarce}: STL, MTL and transfer": _first(comparison)}
    for number, task in enumerate((comparison.scarce, *comparison.abundant), start=2):
        shown = [row for row in comparison.rows if any(_cells(comparison, row, task))]
        lines = [[row.name, *(mean_text(one, "ssim") for one in _cells(comparison, row, task))] for row in shown]
        found[f"Table {number}: SSIM of {task}"] = _frame(comparison, lines)
        for other in others:
            lines = []
            for row in shown:
                minus = [comparison.minus(row, other, count, task, "ssim") for count in comparison.counts]
                if any(minus):
                    lines.append([row.name, *(difference_text(one, "ssim") for one in minus)])
            if lines:
                found[f"Table {number}, minus {other.name}: SSIM of {task}"] = _frame(comparison, lines)
    return found


def _first(comparison: Comparison) -> pd.DataFrame:
    lines = []
    for count in comparison.counts:
        line = {"slices": f"N = {count}"}
        chosen = comparison.best(count)
        shown = {"STL": comparison.baseline("stl"), "MTL": chosen, "Transfer": comparison.baseline("transfer")}
        for metric, title in (("ssim", "SSIM"), ("psnr", "pSNR")):
            for name, row in shown.items():
                one = comparison.cell(row, count, comparison.scarce, metric) if row else None
                line[f"{title} {name}"] = mean_text(one, metric)
        line["MTL is"] = chosen.name if chosen else ""
        lines.append(line)
    return pd.DataFrame(lines)


def _cells(comparison: Comparison, row: Row, task: str) -> list[Cell | None]:
    return [comparison.cell(row, count, task, "ssim") for count in comparison.counts]


def _frame(comparison: Comparison, lines: Sequence[Sequence[str]]) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=["network", *(f"N = {count}" for count in comparison.counts)])


def mean_text(one: Cell | None, metric: str) -> str:
    """``mean ± error``, and marks: ▲ ▼ where the interval against STL excludes zero, △ ▽ against transfer."""
    if one is None:
        return ""
    digits = _DIGITS[metric]
    text = f"{one.mean:.{digits}f}"
    if np.isfinite(one.error):
        text += f" ± {one.error:.{digits}f}"
    marks = {"stl": {1: " ▲", -1: " ▼"}, "transfer": {1: " △", -1: " ▽"}}
    return text + "".join(marks[kind].get(one.against[kind].sign, "") for kind in marks if kind in one.against)


def difference_text(one: Difference | None, metric: str) -> str:
    """``mean [low, high]``, and ▲ or ▼ where the interval excludes zero."""
    if one is None:
        return ""
    mean, low, high = (
        f"{round(value, _DIGITS[metric]) + 0.0:+.{_DIGITS[metric]}f}" for value in (one.mean, one.low, one.high)
    )
    return (f"{mean} [{low}, {high}]" if np.isfinite(one.low) else mean) + {1: " ▲", -1: " ▼"}.get(one.sign, "")


def legend(comparison: Comparison) -> list[str]:
    """The meaning of cells, intervals and marks, and the source of the numbers: one paragraph each."""
    about = comparison.results.about
    tested = "; ".join(
        f"{task} {counts.volumes} volumes, {counts.slices} slices" for task, counts in about.test.items()
    )
    mask = about.mask
    kind = f"{mask.kind} {mask.path}" if mask.path else mask.kind
    epochs = ", ".join(
        f"{NAMES.get(kind, 'multi-task')} {' or '.join(map(str, found))}" for kind, found in about.epochs.items()
    )
    over = "test volumes, Student's: it says nothing of other seeds"
    if len(comparison.seeds) > 1:
        over = "seeds and test volumes, both drawn at random and crossed: Student's, Satterthwaite's degrees of freedom"
    paragraphs = [
        "Cells: mean over test slices and seeds ± standard error over seeds "
        f"({', '.join(map(str, comparison.seeds))}); without ±, one seed or none{_fewer(comparison)}. "
        "▲ or ▼: the interval of the difference from STL excludes zero (of a multi-task network, ▼ is negative "
        "transfer); △ or ▽: of that from transfer. An empty cell was not run or not tested yet.",
        f"Differences: paired by slice and seed, mean [{LEVEL:.0%} interval over {over}]; ▲ or ▼: the interval "
        "excludes zero. Nothing corrects for the number of intervals: of twenty without an effect, one excludes zero.",
        "MTL in Table 1 is, at each N, the network with the best mean validation SSIM of the scarce task among those "
        "that start at random, or, where none does, from the joint network. STL has seen one task alone; what the "
        "paper calls STL of its scarce task was trained on both contrasts (its Table 2), which is Joint STL here. STL "
        "of equal steps makes as many steps as the multi-task networks of that N, to the nearest whole pass over its "
        "slices.",
        f"Test split: {tested}. Mask: {kind}, R {mask.accelerations[0]:g}, centre {mask.centre_fractions[0]:g}, "
        f"seed {mask.seed}. Epochs: {epochs}; what starts from trained weights has those of its start behind it too.",
        f"Definition {about.definition}: {about.definition_text}",
        f"Study {about.study}; data {about.data_hash}; code {', '.join(about.code_versions)}.",
    ]
    if comparison.baseline(L1_WAVELET):
        paragraphs.insert(1, "ℓ1-wavelet is sigpy's, its λ tuned on validation for each task; it was not trained.")
    if comparison.baseline(TRUTH):
        paragraphs.insert(1, TRUTH_IS)
    if comparison.peers:
        names = ", ".join(NAMES.get(kind, kind) for kind in comparison.peers)
        paragraphs.insert(-3, f"Made by other tools, tested on the same slices: {names}.")
    return paragraphs


def _fewer(comparison: Comparison) -> str:
    short = []
    for row in comparison.rows:
        if row.kind in UNTRAINED:
            continue
        for task in comparison.results.about.tasks:
            cells = zip(comparison.counts, _cells(comparison, row, task), strict=True)
            found = [f"{count}: {one.seeds}" for count, one in cells if one and one.seeds < len(comparison.seeds)]
            if found:
                short.append(f"{row.name} on {task} (N = {', '.join(found)})")
    return f"; fewer seeds: {', '.join(short)}" if short else ""


def write(found: dict[str, pd.DataFrame], form: Form, notes: Sequence[str] = ()) -> str:
    """Tables as text, Markdown or LaTeX, each under its title, and the notes below them."""
    if form == "latex":
        return _latex_document(found, notes)
    parts = [
        f"**{title}**\n\n{render_markdown(frame)}" if form == "markdown" else f"{title}\n{plain_table(frame)}"
        for title, frame in found.items()
    ]
    return "\n".join([*parts, *(f"{note}\n" for note in notes)])


def _latex_document(found: dict[str, pd.DataFrame], notes: Sequence[str]) -> str:
    lines = [r"% needs \usepackage{amssymb} (marks) and \usepackage{graphicx} (tables no wider than the text)"]
    for title, frame in found.items():
        number, _, caption = title.partition(": ")
        rows = [
            " & ".join(latex(one) for one in line) + r" \\"
            for line in [list(frame.columns), *frame.to_numpy().tolist()]
        ]
        lines += [
            r"\begin{table}[htbp]",
            r"\centering",
            # The group of the table keeps it; LaTeX would count for itself.
            rf"\renewcommand{{\thetable}}{{{latex(number.removeprefix('Table '))}}}",
            rf"\caption{{{latex(caption)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{'l' * len(frame.columns)}}}",
            r"\hline",
            rows[0],
            r"\hline",
            *rows[1:],
            r"\hline",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    if notes:
        lines += [r"\begin{flushleft}\footnotesize", *(f"{latex(note)}\n" for note in notes), r"\end{flushleft}"]
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "±": r"$\pm$", "▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$",
    "△": r"$\vartriangle$", "▽": r"$\triangledown$", "–": "--", "×": r"$\times$",
}  # fmt: skip


def latex(value: object) -> str:
    """Any text as LaTeX shows it; signed numbers in math, so that a minus is one."""
    text = "".join(_LATEX.get(sign, sign) for sign in str(value))
    return re.sub(r"(?<![\w.])[+-]\d+\.\d+", r"$\g<0>$", text)

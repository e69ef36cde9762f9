"""Draw docs/blocks.svg: the three kinds of blocks along the unroll, for two tasks and the layout I2Y2V2.

    python docs/draw_blocks.py

Each block is x ← x − η Aᴴ(Ax − k) − U(x), as ``recon.network.unrolled`` computes it: the data consistency stands on the
line of the image, and the U-Net hangs below it. The file is committed, and a test compares it with this script.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

FILE = Path(__file__).with_name("blocks.svg")
LAYOUT = "IIYYVV"

WIDTH, HEIGHT = 1120, 396
LEFT, STEP, PANEL = 122, 146, 134
"""Where the first block begins, from block to block, and the width of a block's panel."""
TOP, BOTTOM = 74, 322
"""Edges of the panels."""
SHARED = 170
"""Height of the line that both tasks' images share."""
OWN = {"pd": 118, "fs": 232}
"""Heights of the lines of a task's own blocks."""
TASKS = {"pd": "PDw", "fs": "PDw-FS"}
APART = 3.5
"""Half the distance of two tasks' lines beside each other."""
SIDE = {"pd": -APART, "fs": APART}
WORDS = {
    "I": ("I: shared", "one copy of everything"),
    "Y": ("Y: multi-head", "one decoder per task"),
    "V": ("V: split", "one copy per task"),
}

LIGHT = {
    "card": "#ffffff",
    "edge": "#d8dee4",
    "panel": "#f3f5f8",
    "ink": "#1f2328",
    "muted": "#59636e",
    "shared": "#ccd3db",
    "shared-line": "#6e7a87",
    "pd": "#bcd8f5",
    "pd-line": "#1f6fbf",
    "fs": "#fbd3b0",
    "fs-line": "#c2590c",
}
DARK = {
    "card": "#0d1117",
    "edge": "#3d444d",
    "panel": "#171d26",
    "ink": "#f0f6fc",
    "muted": "#9198a1",
    "shared": "#48525e",
    "shared-line": "#9aa6b3",
    "pd": "#17416e",
    "pd-line": "#6cb4ff",
    "fs": "#6b3410",
    "fs-line": "#ffa45c",
}


def style(colours: dict[str, str]) -> str:
    """The classes of the drawing in these colours."""
    rules = [
        f".card{{fill:{colours['card']};stroke:{colours['edge']}}}",
        f".panel{{fill:{colours['panel']}}}",
        f"text{{fill:{colours['ink']}}}",
        f".muted{{fill:{colours['muted']}}}",
    ]
    for owner in ("shared", *TASKS):
        rules.append(f".{owner}{{fill:{colours[owner]};stroke:{colours[owner + '-line']}}}")
        rules.append(f".{owner}-line{{stroke:{colours[owner + '-line']}}}")
        rules.append(f".{owner}-ink{{fill:{colours[owner + '-line']};stroke:none}}")
    return "".join(rules)


def polygon(owner: str, *points: tuple[float, float]) -> str:
    """A filled part of an owner's colour."""
    text = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polygon class="{owner}" points="{text}"/>'


def path(task: str, *points: tuple[float, float]) -> str:
    """The course of a task's image."""
    return f'<path class="line {task}-line" d="M' + " L".join(f"{x:g} {y:g}" for x, y in points) + '"/>'


def curve(task: str, x: float, y: float, end: float, height: float) -> str:
    """A task's image, from one height to another."""
    middle = (x + end) / 2
    return (
        f'<path class="line {task}-line" d="M{x:g} {y:g} C{middle:g} {y:g} {middle:g} {height:g} {end:g} {height:g}"/>'
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    """A line of text."""
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{words}</text>'


def encoder(owner: str, x: float, y: float, half: float = 22) -> str:
    """The encoder's half of a U-Net, 26 wide, whose middle is at height y."""
    return polygon(owner, (x, y - half), (x + 26, y - half / 2.4), (x + 26, y + half / 2.4), (x, y + half))


def decoder(owner: str, x: float, y: float, half: float = 22) -> str:
    """The decoder's half."""
    return polygon(owner, (x, y - half / 2.4), (x + 26, y - half), (x + 26, y + half), (x, y + half / 2.4))


def consistency(owner: str, x: float, y: float, tasks: list[str]) -> Iterator[str]:
    """Data consistency on the line of the image, with the k-space of the tasks that pass it."""
    for task in tasks:
        at = x + (SIDE[task] * 2 if len(tasks) > 1 else 0)
        yield f'<path class="line thin {task}-line" marker-end="url(#{task}-tip)" d="M{at:g} {y - 31:g} V{y - 17:g}"/>'
    yield f'<rect class="{owner}" x="{x - 17:g}" y="{y - 14:g}" width="34" height="28" rx="5"/>'
    yield text(x, y + 4.5, "DC", "part")
    yield text(x + (20 if len(tasks) > 1 else 9), y - 21, "k", "small italic muted", "start")


def minus(owner: str, x: float, y: float) -> str:
    """Where the U-Net's output is taken from the image."""
    return (
        f'<circle class="{owner}" cx="{x:g}" cy="{y:g}" r="7.5"/>'
        f'<path class="sign {owner}-line" d="M{x - 3.8:g} {y:g} H{x + 3.8:g}"/>'
    )


def whole(owner: str, x: float, y: float, tasks: list[str]) -> Iterator[str]:
    """A block with one U-Net, for one task or for all."""
    below = y + 52
    for task in tasks:
        side = SIDE[task] if len(tasks) > 1 else 0
        yield path(task, (x, y + side), (x + PANEL, y + side))
        yield path(task, (x + 16 - side, y + side), (x + 16 - side, below + side), (x + 40, below + side))
        yield path(task, (x + 92, below + side), (x + 112 - side, below + side), (x + 112 - side, y + side))
    yield from consistency(owner, x + 66, y, tasks)
    yield encoder(owner, x + 40, below)
    yield decoder(owner, x + 66, below)
    yield minus(owner, x + 112, y)


def multi_head(x: float) -> Iterator[str]:
    """A block whose encoder is shared, with a decoder of each task's own."""
    y = SHARED
    below = y + 72
    heights = {"pd": below - 24, "fs": below + 24}
    for task, side in SIDE.items():
        yield path(task, (x, y + side), (x + PANEL, y + side))
        yield path(task, (x + 16 - side, y + side), (x + 16 - side, below + side), (x + 28, below + side))
        yield curve(task, x + 54, below + side, x + 68, heights[task])
        out = x + 112 - side
        yield path(task, (x + 94, heights[task]), (out, heights[task]), (out, y + side))
    yield from consistency("shared", x + 66, y, list(TASKS))
    yield encoder("shared", x + 28, below)
    for task, height in heights.items():
        yield decoder(task, x + 68, height, 18)
    yield minus("shared", x + 112, y)


def block(kind: str, x: float) -> Iterator[str]:
    """One block in its panel."""
    yield f'<rect class="panel" x="{x:g}" y="{TOP}" width="{PANEL}" height="{BOTTOM - TOP}" rx="10"/>'
    if kind == "I":
        yield from whole("shared", x, SHARED, list(TASKS))
    elif kind == "Y":
        yield from multi_head(x)
    else:
        for task, y in OWN.items():
            yield from whole(task, x, y, [task])


def joints() -> Iterator[str]:
    """The courses of the images before, between and after the blocks."""
    heights = (
        [OWN]
        + [{task: SHARED + side for task, side in SIDE.items()} if kind != "V" else OWN for kind in LAYOUT]
        + [OWN]
    )
    for number, (before, after) in enumerate(itertools.pairwise(heights)):
        start = LEFT + (number - 1) * STEP + PANEL if number else 92
        end = LEFT + number * STEP if number < len(LAYOUT) else WIDTH - 100
        for task in TASKS:
            yield curve(task, start, before[task], end, after[task])


def legend() -> Iterator[str]:
    """What shapes and colours mean."""
    y = 362
    x = 124.0
    for owner, words in (
        ("shared", "shared by both tasks"),
        *((task, f"{name}'s own") for task, name in TASKS.items()),
    ):
        yield f'<rect class="{owner}" x="{x:g}" y="{y - 8:g}" width="16" height="16" rx="4"/>'
        yield text(x + 24, y + 4.5, words, "muted", "start")
        x += 52 + 7.0 * len(words)
    x += 6
    yield f'<rect class="shared" x="{x:g}" y="{y - 11:g}" width="30" height="22" rx="5"/>' + text(
        x + 15, y + 4, "DC", "small"
    )
    yield text(x + 38, y + 4.5, "data consistency", "muted", "start")
    x += 176
    yield encoder("shared", x, y, 12) + decoder("shared", x + 26, y, 12)
    yield text(x + 60, y + 4.5, "U-Net: encoder, decoder", "muted", "start")


def drawing() -> str:
    """The whole drawing, as SVG."""
    parts = [
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="14"/>',
        *joints(),
    ]
    for number, kind in enumerate(LAYOUT):
        parts += block(kind, LEFT + number * STEP)
    for kind, (name, means) in WORDS.items():
        middle = LEFT + (LAYOUT.index(kind) + LAYOUT.count(kind) / 2) * STEP - (STEP - PANEL) / 2
        parts += [text(middle, 36, name, "name"), text(middle, 57, means, "muted")]
    for task, y in OWN.items():
        parts.append(text(84, y + 4.5, TASKS[task], f"task {task}-ink", "end"))
        parts.append(text(WIDTH - 92, y + 4.5, TASKS[task], f"task {task}-ink", "start"))
    parts.append(text(84, OWN["pd"] - 20, "zero-filled", "muted", "end"))
    parts.append(text(WIDTH - 92, OWN["pd"] - 20, "image", "muted", "start"))
    parts += legend()
    tips = "".join(
        f'<marker id="{task}-tip" viewBox="0 0 6 6" refX="3" refY="3" markerWidth="5" markerHeight="5" orient="auto">'
        f'<path class="{task}-ink" d="M0 0 L6 3 L0 6 Z"/></marker>'
        for task in TASKS
    )
    fixed = (
        "text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
        ".name{font-size:17px;font-weight:600}.task{font-size:15px;font-weight:600}"
        ".part{font-size:12.5px;font-weight:600}.small{font-size:11.5px}.italic{font-style:italic}"
        "rect,polygon,circle{stroke-width:1.3;stroke-linejoin:round}.panel{stroke:none}"
        ".line{fill:none;stroke-width:2.2;stroke-linejoin:round}.thin{stroke-width:1.6}.sign{stroke-width:2}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
            'aria-label="Shared, multi-head and split blocks along the unroll, for the tasks PDw and PDw-FS">',
            f"<style>{fixed}{style(LIGHT)}@media(prefers-color-scheme:dark){{{style(DARK)}}}</style>",
            f"<defs>{tips}</defs>",
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")

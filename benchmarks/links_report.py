"""What `links.py` found, for people: a table, a sentence and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Found = Sequence[tuple[str, str, dict[str, Any]]]
"""Way, link, what a run gave; repetitions stand as further entries."""
_LOCAL, _GLOBAL = ("DGL", "DGL, coded", "interlocking"), ("backprop, ours", "1F1B", "DDP")


def lines(found: Found) -> list[list[str]]:
    """A line for each way: median images a second (lowest to highest) on each link, and MB a step."""
    ways, links = _named(found)
    table = [["images a second", *links, "MB a step"]]
    for way in ways:
        crossed = [result["megabytes_a_step"] for name, _, result in found if name == way]
        sent = [megabytes for megabytes in crossed if megabytes]
        megabytes = f"{statistics.median(sent):.2f}" if sent else "–"
        table.append([way, *(_cell(speeds(found, way, link)) for link in links), megabytes])
    return table


def _named(found: Found) -> tuple[list[str], list[str]]:
    """Ways and links, in their order."""
    return list(dict.fromkeys(way for way, _, _ in found)), list(dict.fromkeys(link for _, link, _ in found))


def speeds(found: Found, way: str, link: str) -> list[float]:
    """Images a second, of each repetition."""
    return [result["images_per_second"] for name, where, result in found if (name, where) == (way, link)]


def _cell(each: Sequence[float]) -> str:
    if not each:
        return "–"
    spread = f" ({min(each):,.0f}–{max(each):,.0f})" if len(each) > 1 else ""
    return f"{statistics.median(each):,.0f}{spread}"


def sentence(found: Found) -> str:
    """The best local way over two nodes beside the best backprop over two, on every link."""
    said = []
    for link in _named(found)[1]:
        best = []
        for ways in (_LOCAL, _GLOBAL):
            medians = {way: statistics.median(each) for way in ways if (each := speeds(found, way, link))}
            best.append(max(medians.items(), key=lambda item: item[1], default=None))
        if best[0] and best[1]:
            said.append(f"{link}: {best[0][0]} {best[0][1] / best[1][1]:.2f} times as fast as {best[1][0]}")
    return "; ".join(said) or "nothing to compare yet"


def plot(found: Found, path: Path) -> None:
    """Images a second of the ways with the same network; and what each way keeps of its throughput on loopback."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ways, links = _named(found)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for number, way in enumerate(ways):
        medians = {link: statistics.median(each) for link in links if (each := speeds(found, way, link))}
        style: dict[str, Any] = {"color": f"C{number}", "label": way}
        if "one node" in way:
            left.axhline(medians["loopback"], linestyle=":", **style)
            continue
        at = [links.index(link) for link in medians]
        if way != "PFF":  # another network
            left.plot(at, list(medians.values()), marker="o", markersize=4, **style)
        if "loopback" in medians:
            shares = [each / medians["loopback"] for each in medians.values()]
            right.plot(at, shares, marker="o", markersize=4, **style)
    left.set(ylabel="images a second", yscale="log")
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("{x:g}")
    right.set(ylabel="of the throughput on loopback", ylim=(0, None))
    for axes in (left, right):
        axes.set_xticks(range(len(links)), links)
        axes.margins(x=0.1)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)

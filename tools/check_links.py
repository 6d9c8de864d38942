"""Do the links in our documentation lead anywhere?

A renamed page or heading breaks links silently. This checks every relative link in the repository's Markdown: the file
exists inside the repository, and the heading after `#` exists in it (by GitHub's rule for anchors). Links to other
sites are not followed: the check gives the same answer without a network.

    python tools/check_links.py [ROOT]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

PAGES = ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md")

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)(?:\s+#+)?\s*$")
_LINK_TEXT = re.compile(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])")
_LINKS = (
    re.compile(r"\]\(\s*<([^>]+)>"),  # [text](<a target with spaces>)
    re.compile(r"\]\(\s*([^<\s()][^\s()]*)"),  # [text](target "title"), ![text](target)
    re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?([^\s>]+)"),  # [name]: target
    re.compile(r"""<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=["']([^"'\s]+)"""),
)
_ID = re.compile(r"""<[^>]+\b(?:id|name)=["']([^"']+)["']""")
_ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)


def main(arguments: list[str]) -> int:
    """Print the broken links of the repository at `arguments[0]` (default: this one); 1 if there are any."""
    root = Path(arguments[0]) if arguments else Path(__file__).parents[1]
    broken = list(broken_links(root))
    print("\n".join(broken) if broken else "links: all lead somewhere")
    return 1 if broken else 0


def broken_links(root: Path) -> Iterator[str]:
    """`page:line: what is wrong` for every relative link that leads nowhere."""
    root = root.resolve()
    pages = sorted({page for pattern in PAGES for page in root.glob(pattern)})
    anchors: dict[Path, set[str]] = {}
    for page in pages:
        for number, line in _prose(page):
            for link in _targets(line):
                path, _, anchor = link.partition("#")
                # As on GitHub: a leading slash means the root of the repository.
                start = root if path.startswith("/") else page.parent
                target = (start / unquote(path).lstrip("/")).resolve() if path else page
                where = f"{page.relative_to(root)}:{number}"
                if not target.is_relative_to(root):
                    yield f"{where}: {link} leads out of the repository"
                elif not target.exists():
                    yield f"{where}: {link} does not exist"
                elif anchor and target.suffix == ".md":
                    if target not in anchors:
                        anchors[target] = _anchors(target)
                    if unquote(anchor) not in anchors[target]:
                        yield f"{where}: {link}: no such heading"


def _targets(line: str) -> Iterator[str]:
    without_code = _CODE.sub("", line)
    for pattern in _LINKS:
        for link in pattern.findall(without_code):
            if not _ELSEWHERE.match(link):
                yield link


def _anchors(page: Path) -> set[str]:
    """What may follow `#`: the headings in GitHub's spelling (repeats get -1, -2 …), and explicit ids."""
    found: set[str] = set()
    seen: dict[str, int] = {}
    for _, line in _prose(page):
        found.update(_ID.findall(_CODE.sub("", line)))
        if heading := _HEADING.match(line):
            text = _LINK_TEXT.sub(r"\1", heading[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            found.add(f"{slug}-{count}" if count else slug)
    return found


def _prose(page: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines outside fenced code."""
    fence = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
        elif mark:
            fence = mark[1]
        else:
            yield number, line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

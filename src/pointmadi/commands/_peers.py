"""What others have published on the sets of the field, with its source, to stand beside our tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.table import Table

from pointmadi.commands._results import Result

PEERS = Path(__file__).with_name("peers.yaml")
Published = Literal["", "scanobjectnn", "modelnet40", "fewshot", "shapenetpart", "s3dis"]


def published_on(results: Sequence[Result]) -> list[str]:
    """Name the published tables that stand beside these results: those of the same set and task."""
    found = []
    for result in results:
        data = result.data.lower()
        if "modelnet40" in data:
            found.append("fewshot" if "-way" in result.task else "modelnet40")
        else:
            found += [name for name in ("scanobjectnn", "shapenetpart", "s3dis") if name in data]
    return list(dict.fromkeys(found))


def read_peers() -> dict[str, Any]:
    """Read the published numbers: {"sources": {letter: where}, "tables": {name: columns, remark, rows}}."""
    content: dict[str, Any] = yaml.safe_load(PEERS.read_text(encoding="utf-8"))
    return content


def show_peers(name: str, console: Console) -> None:
    """Print the numbers published on one set, and what cannot be compared with them."""
    content = read_peers()
    peers = content["tables"][name]
    shown = Table(title=f"published: {peers['title']}, %", title_justify="left")
    for column in ("method", *peers["columns"], "source", "remark"):
        shown.add_column(column, overflow="fold")
    for row in peers["rows"]:
        scores = ("–" if score is None else str(score) for score in row["scores"])
        shown.add_row(row["method"], *scores, row["source"], row.get("remark", ""))
    cited = [f"{letter}: {where}" for letter, where in content["sources"].items() if _cites(peers, letter)]
    console.print(shown, *peers["remarks"], *cited, sep="\n", highlight=False, soft_wrap=True)


def _cites(peers: dict[str, Any], letter: str) -> bool:
    return any(letter in row["source"].split() for row in peers["rows"])

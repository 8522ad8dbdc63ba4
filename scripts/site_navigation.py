"""The part of the site's navigation that follows from files: methods by family, and pages that mkdocs.yml lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def on_config(config: Any) -> Any:
    """Fill in the methods by family, and what else there is in docs/ and docs/tutorials."""
    docs = Path(config["docs_dir"])
    families: dict[str, list[str]] = {}
    for card in sorted((docs / "methods").glob("*.md")):
        if card.name != "README.md":
            head = card.read_text(encoding="utf-8").split("---\n")
            family = yaml.safe_load(head[1])["family"] if len(head) > 2 else "others"
            families.setdefault(family.capitalize(), []).append(f"methods/{card.name}")
    groups = [{family: cards} for family, cards in sorted(families.items())]
    for section in config["nav"]:
        if "Methods" in section:
            section["Methods"] = ["methods/README.md", *groups]
        for title, folder in (("Tutorials", "tutorials"), ("Guides", ".")):
            if title in section:
                named = {next(iter(entry.values())) for entry in section[title]} | {"index.md", "api.md"}
                found = sorted(path.relative_to(docs).as_posix() for path in (docs / folder).glob("*.md"))
                section[title] += [page for page in found if page not in named]
    return config

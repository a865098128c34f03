"""What `mkdocs build` does besides reading `docs/`: the pages of families and of the notebook are made here.

They are made of the code while the site is built, so that none is kept in the repository, and none is old.
"""

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parents[2]))  # `mkdocs` does not look where it is run

from benchmarks.site import families, notebook, reference

NOTEBOOK = "notebook/lineage"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Two entries of the navigation: families in the order of their years, and what benchmarks have found."""
    entries: list[dict[str, Any]] = config.nav or []
    named = {page for entry in entries for page in entry.values() if isinstance(page, str)}
    others = sorted(path.name for path in Path(config.docs_dir).glob("*.md") if path.name not in named)
    pages = [
        {families.title_of(family): f"families/{families.name_of(family)}.md"}
        for family in families.by_year()
    ]
    for entry in entries:
        entry.update(
            {name: made for name, made in (("Families", pages), ("Findings", others)) if name in entry}
        )
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The generated pages, beside those of `docs/`."""
    for family in families.by_year():
        path = f"families/{families.name_of(family)}.md"
        files.append(File.generated(config, path, content=families.page(family)))
    source = Path(config.docs_dir) / f"{NOTEBOOK}.ipynb"
    pictures = notebook.pictures(source)
    for name, data in pictures.items():
        files.append(File.generated(config, f"notebook/{name}", content=data))
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=notebook.page(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """What is put into pages: links to the families, the reference's names.

    There is no table of contents where headings are whole sentences.
    """
    if page.file.src_uri == "claims.md":
        hidden: Any = page.meta
        hidden["hide"] = ["toc"]
    if page.file.src_uri == "api.md":
        markdown = reference.with_names(markdown)
    if page.file.src_uri == "models.md":
        for family in families.by_year():
            name = families.name_of(family)
            markdown = markdown.replace(
                f"## {name}\n", f"## {name}\n\n[Blocks and differences](families/{name}.md)\n"
            )
    return markdown

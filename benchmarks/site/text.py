"""Docstrings as Markdown."""

import re


def fenced(docstring: str) -> str:
    """Examples behind `>>>` as code, which Markdown would take for quotations."""
    paragraphs = docstring.split("\n\n")
    return "\n\n".join(
        f"```pycon\n{paragraph}\n```" if paragraph.lstrip().startswith(">>>") else paragraph
        for paragraph in paragraphs
    )


def linked(text: str) -> str:
    """Addresses as links; what is behind the last slash of an arXiv address is its name."""

    def link(match: re.Match[str]) -> str:
        url = match[0]
        name = url.removeprefix("https://arxiv.org/abs/")
        return f"[{'arXiv:' + name if name != url else url}]({url})"

    return re.sub(r"https?://[^\s,)]*[^\s,).]", link, text)

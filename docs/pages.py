"""Hooks of the documentation site (mkdocs.yml).

A README lies beside what it is about, so that it is found there. The site shows it too: its links,
written for the repository, are turned into links between pages. A link to a file that the site
does not show, such as a source file, becomes plain text; one to a file that is not there is a
warning, which `strict` makes an error.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any
from urllib.parse import urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = PurePosixPath("docs")
# Of the repository -> of the site; a star is the folder's name.
SHOWN = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "asa_engine/graders/*/README.md": "graders/*.md",
    "asa_engine/models/*/MODEL_CARD.md": "models/*.md",
    "models/*/MODEL_CARD.md": "models/*.md",
    "kernels/README.md": "kernels/index.md",
    "kernels/*/README.md": "kernels/*.md",
    "benchmarks/README.md": "benchmarks/index.md",
    "benchmarks/*/README.md": "benchmarks/*.md",
}
# Code that only looks like a link is stepped over; a link whose text is code is one.
_LINK = re.compile(
    r"^```.*?^```"
    r"|(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)"
    r"|`[^`\n]*`",
    re.MULTILINE | re.DOTALL,
)
# What a page makes a browser fetch; links that a reader follows are another matter.
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|link)\b[^>]*?\b(?:src|href)=[\"']?"
    r"(?P<address>(?:https?:)?//[^\"'\s>]+)",
    re.IGNORECASE,
)
_log = logging.getLogger("mkdocs.hooks.pages")


def _shown() -> Iterator[tuple[str, str]]:
    for pattern, uri in SHOWN.items():
        for path in sorted(ROOT.glob(pattern)):
            yield path.relative_to(ROOT).as_posix(), uri.replace("*", path.parent.name)


PAGES = dict(_shown())
SOURCES = {uri: source for source, uri in PAGES.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let no page of docs/ be missing from the navigation."""
    nav: list[Any] = list(config.nav or [])
    named = set(re.findall(r"[\w./-]+\.md", repr(nav)))
    docs = (path.relative_to(ROOT / DOCS).as_posix() for path in (ROOT / DOCS).rglob("*.md"))
    if rest := sorted({*docs, *SOURCES} - named):
        config.nav = [*nav, {"More": rest}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere in the repository."""
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links of the repository into links of the site."""
    uri = page.file.src_uri
    source = SOURCES.get(uri, str(DOCS / uri))
    return _LINK.sub(
        lambda match: _site_link(match, source, uri) if match["target"] else match[0], markdown
    )


def _site_link(link: re.Match[str], source: str, uri: str) -> str:
    target = urlsplit(link["target"])
    if target.scheme or target.netloc or not target.path:
        return link[0]
    path = normpath(str(PurePosixPath(source).parent / target.path))
    if not (ROOT / path).exists():
        _log.warning("%s links to %s, which is not there", source, path)
        return link["text"]
    if path in PAGES:
        shown = PAGES[path]
    elif PurePosixPath(path).is_relative_to(DOCS) and (ROOT / path).is_file():
        shown = str(PurePosixPath(path).relative_to(DOCS))
    else:
        return link["text"]
    fragment = f"#{target.fragment}" if target.fragment else ""
    address = relpath(shown, str(PurePosixPath(uri).parent)) + fragment
    return f"{link['image']}[{link['text']}]({address})"


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Refuse a page that would fetch anything from another host."""
    if fetched := _FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would fetch {fetched['address']}")
    return output

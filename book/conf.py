"""The site: Sphinx, MyST-NB, and the chapters' code in synchronised tabs."""

import os
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx_design.shared import create_component

project, author = "ch4jax", "the authors of ch4jax"
extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx_exercise",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "html_image"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = os.environ["CH4JAX_BOOK_CACHE"]
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
# Sphinx 9.0 sends Chinese pages a search that names a stemmer which is not there.
html_search_language = "en"
locale_dirs, gettext_compact = ["locale"], False
exclude_patterns = ["doctrees", "locale"]
# Guides name files of the repository that are not pages of the site.
suppress_warnings = ["myst.xref_missing", "mystnb.unknown_mime_type"]
autodoc_default_options = {"members": True}
autodoc_typehints = "none"
napoleon_use_ivar = True
html_theme = "sphinx_book_theme"
html_title = "ch4jax: Dive into Deep Learning in JAX and Flax"
html_theme_options = {"use_download_button": True, "show_navbar_depth": 1}
templates_path, html_static_path = ["_templates"], ["_static"]
html_js_files, html_css_files = [("book.js", {"defer": "defer"})], ["book.css"]
html_sidebars = {
    "**": [
        *("navbar-logo.html", "language.html"),
        *("search-button-field.html", "sbt-sidebar-nav.html"),
    ]
}

SIDES = {"pytorch": "PyTorch", "jax": "JAX", "nnx": "Flax NNX", "linen": "Flax Linen"}


class Tabs(SphinxTransform):
    """Put neighbouring cells tagged `tab-SIDE` into one set of tabs."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Move the cells."""
        sets: dict[nodes.Node, nodes.Element] = {}
        for cell in list(self.document.findall(nodes.container)):
            classes = {
                name.removeprefix("tag_tab-") for name in cell.get("classes", [])
            }
            for side in classes & SIDES.keys():
                parent = cell.parent
                before = parent[parent.index(cell) - 1]
                tabs = sets.get(before)
                if tabs is None:
                    tabs = create_component("tab-set", classes=["sd-tab-set"])
                    parent.insert(parent.index(cell), tabs)
                    sets[tabs] = tabs
                parent.remove(cell)
                label = nodes.rubric("", SIDES[side], classes=["sd-tab-label"])
                label["sync_id"], label["sync_group"] = side, "side"
                content = create_component(
                    "tab-content", classes=["sd-tab-content"], children=[cell]
                )
                tabs += create_component(
                    "tab-item",
                    classes=["sd-tab-item"],
                    selected=False,
                    children=[label, content],
                )


def only_chapters(app: Sphinx, config: Any) -> None:
    """Leave guides and reference to the English site."""
    if config.language == "zh_CN":
        config.exclude_patterns += ["guides", "reference.md", "index.md"]
        config.root_doc = "index_zh"
    else:
        config.exclude_patterns += ["index_zh.md"]


def from_markdown(
    app: Sphinx, what: str, name: str, described: Any, options: Any, lines: list[str]
) -> None:
    """Turn the docstrings' Markdown into what autodoc reads."""
    for i, line in enumerate(lines):
        if not line.startswith(">>>"):
            parts = re.split(r"`([^`]+)`", line)
            parts[::2] = [re.sub(r"([*|])", r"\\\1", part) for part in parts[::2]]
            parts[1::2] = [f"``{part}``\\ " for part in parts[1::2]]
            lines[i] = "".join(parts)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what this file adds."""
    app.add_transform(Tabs)
    app.connect("config-inited", only_chapters)
    app.connect("autodoc-process-docstring", from_markdown, priority=100)
    return {"parallel_read_safe": True}

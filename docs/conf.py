"""The site: pip install -e '.[train,docs]' && sphinx-build -W -n docs docs/_build

Every page is a Markdown file that can be read where it lies. Some are notebooks in
Markdown, and are run while the site is built; -D nb_execution_mode=off leaves that out.
Nothing is fetched, neither to build a page nor to read it.
"""

import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs"), str(ROOT)]

import config_keys  # noqa: E402

project = "agvm_jax"
author = "the authors of agvm_jax"
copyright = "the authors of agvm_jax, Apache-2.0"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "evidence/*.csv"]

# Markdown
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 900  # seconds a block
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
suppress_warnings = [
    "myst.header",  # pages that are read alone may skip a level
    "myst-nb.lexer",  # of blocks that are not run
]

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell of them in words
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
default_role = "code"
# Types of other libraries, whose sites are not asked.
nitpick_ignore_regex = [(r"py:.*", r"(?!agvm_jax).*")]

# Looks
html_theme = "sphinx_book_theme"
html_title = "agvm_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
copybutton_exclude = ".linenos, .gp"

# Files of the repository that are pages of the site under another name.
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
KEYS = re.compile(r"<!-- the keys of configs/base.py.*?-->")


def adapt(app, docname: str, source: list[str]) -> None:
    """Puts the config's keys into their page, and turns links to those files."""
    if docname == "reference/config":
        keys = config_keys.read_keys(config_keys.BASE.read_text("utf-8"))
        source[0] = KEYS.sub(lambda _: config_keys.page(keys), source[0])
    up = posixpath.relpath(".", posixpath.dirname(docname) or ".")
    for file, page in PAGES.items():
        link = posixpath.normpath(posixpath.join(up, "..", file))
        source[0] = source[0].replace(f"]({link}", f"]({posixpath.join(up, page)}")


def adapt_included(app, path, docname: str, content: list[str]) -> None:
    """Turns links between those files themselves."""
    for file, page in PAGES.items():
        content[0] = content[0].replace(f"]({file})", f"](docs/{page})")


def setup(app) -> None:
    app.connect("source-read", adapt)
    app.connect("include-read", adapt_included)

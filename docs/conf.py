"""The site of the docs: `make docs` builds it, docs/_build/html/index.html is its first page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]

import gate_cache  # noqa: E402

project = "gate-cache"
author = "the gate-cache authors"
copyright = author
release = version = gate_cache.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc",
              "cli_reference"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
default_role = "py:obj"  # of docstrings: `name` is a link where there is such a name

autodoc_mock_imports = ["diffusers", "transformers", "peft"]  # take seconds and describe nothing
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures say them; numpydoc has shapes and units
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

html_theme = "furo"
html_title = "gate-cache"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#00639c", "color-brand-content": "#00639c"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}


def _skip(app: object, kind: str, name: str, found: object, skip: bool, options: object) -> bool:
    """Fields of named tuples, which their class describes."""
    return skip or str(getattr(found, "__doc__", "")).startswith("Alias for field number")


def _sign(app: object, kind: str, name: str, found: object, options: object, arguments: str,
          returned: str) -> tuple[str, str]:
    """Protocols are not made."""
    return ("" if arguments == "(*args, **kwargs)" else arguments, returned)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _sign)
    app.connect("autodoc-skip-member", _skip)

"""Sphinx configuration: user guide, API pages from docstrings, gallery from examples/."""

import warnings

import sparker

project = "sparker"
author = "The sparker developers"
copyright = "The sparker developers"
release = version = sparker.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "**/README.rst", "auto_examples/*.ipynb"]
html_theme = "pydata_sphinx_theme"
html_title = "sparker"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}
default_role = "literal"
nitpicky = False

autosummary_generate = True
numpydoc_show_class_members = False
autodoc_typehints = "none"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "plot_gallery": True,
}

# matplotlib says so when a gallery is built without a screen
warnings.filterwarnings("ignore", category=UserWarning, message=".*is non-interactive.*")

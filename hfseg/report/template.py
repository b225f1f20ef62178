"""Pages of HTML that need no other file: one frame and style for all, and every text escaped."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

import hfseg


def render(name: str, title: str, **values: Any) -> str:
    """A template of the package as a whole page.

    Args:
        name: below hfseg/; it extends report/frame.html.
        title: of the page.
        values: for the template.
    """
    environment = Environment(loader=PackageLoader("hfseg", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style = files("hfseg.report").joinpath("page.css").read_text(encoding="utf-8")
    # S704: the style is our own file.
    return environment.get_template(name).render(
        title=title,
        style=Markup(style),  # noqa: S704
        version=hfseg.__version__,
        **values,
    )

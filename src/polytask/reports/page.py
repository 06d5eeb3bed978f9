"""One self-contained HTML page from one study: no script, no request, nothing that is not in the record."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.reports.reading import check
from polytask.reports.wording import name, number, prose

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup


def render_report(study: Mapping[str, Any]) -> str:
    """The report of a study (see `docs/study-json.md`) as one HTML page."""
    from polytask.reports.sections import page

    check(study)
    return _environment().get_template("report.html.j2").render(page(study))


def write_report(study: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the report; whoever looks sees the whole old file or the whole new one, never a half."""
    html = render_report(study)
    target = Path(path)
    half = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        half.write_text(html, encoding="utf-8", newline="\n")
        os.replace(half, target)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters.update(bdi=_bdi, number=number, prose=prose)
    return environment


def _bdi(text: object, limit: int = 80) -> Markup:
    """A user's name: isolated from the direction of the text around it, shortened with a tooltip."""
    from markupsafe import Markup

    short, long = name(text, limit), name(text, 300)
    if short == long:
        return Markup("<bdi>{}</bdi>").format(short)
    return Markup('<bdi title="{}">{}</bdi>').format(long, short)

"""One self-contained HTML page from one study: no script, no request, nothing that is not in the record."""

from __future__ import annotations

import functools
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polytask.errors import UserError
from polytask.reports.reading import check, items, part
from polytask.reports.wording import name, number, prose

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup


def render_report(study: Mapping[str, Any]) -> str:
    """The report of a study (see `docs/study-json.md`) as one HTML page."""
    from polytask.reports.sections import page

    check(study)
    return _environment().get_template("report.html.j2").render(page(study))


def render_run(record: Mapping[str, Any]) -> str:
    """The page of one training: what `polytask fit` leaves beside the model."""
    from polytask.reports.run import run_page

    return _environment().get_template("run.html.j2").render(run_page(record))


def render_relatedness(record: Mapping[str, Any]) -> str:
    """The page of the signals of relatedness: what `polytask relate` leaves."""
    from polytask.reports.related import related_page

    return _environment().get_template("relate.html.j2").render(related_page(record))


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


def render_sharing(sharing: Mapping[str, Any]) -> str:
    """One SVG file of what a network shares and how it mixes.

    Args:
        sharing: `trunks.sharing.describe_sharing` of the network, or `arms.*.sharing` of a study.
    """
    from markupsafe import Markup

    from polytask.reports import architecture
    from polytask.reports.svg import WIDE

    if not items(sharing, "blocks"):
        raise UserError("nothing to draw: give what polytask.trunks.sharing.describe_sharing returns")
    title = name(sharing.get("trunk") or "the network")
    drawn = [("", architecture.architecture(sharing, f"What is shared: {title}"))]
    drawn += [(key, picture) for key, found in part(sharing, "mixing").items()
              if (picture := architecture.mixing(part(found), name(key))) is not None]  # fmt: skip
    body, y = [], 12.0
    for words, picture in drawn:
        wide, high = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', picture)[0])
        if words:
            body.append(Markup('<text x="12" y="{:g}" class="label">{}</text>').format(y + 14, name(words)))
            y += 24
        place = Markup('<svg x="12" y="{:g}" width="{:g}" height="{:g}" style="width:{:g}px;height:{:g}px"')
        body.append(Markup(picture.replace("<svg", place.format(y, wide, high, wide, high), 1)))
        y += high + 24
    css = Markup(_environment().get_template("report.css.j2").render())
    css += Markup("svg { background: var(--paper); font-family: sans-serif; }")
    page = Markup('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1:g}" width="{0}" height="{1:g}">'
                  "<style>{2}</style>{3}</svg>")  # fmt: skip
    return str(page.format(WIDE + 24, y, css, Markup("").join(body)))


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

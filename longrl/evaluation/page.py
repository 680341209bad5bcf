"""What the HTML pages share: their templates, and how numbers and times are written in them.

A page opens from the disk, without a server or a network: styles, scripts, charts, pictures and short clips are inside
it, and its content security policy forbids everything else but the films' own files. All texts from videos, teachers
and models are escaped: by the templates, and in the browser of questions by never being HTML at all.
"""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from longrl.evaluation.summary import percent


def rendered(template: str, room: str = "longrl.evaluation", **values: Any) -> str:
    """One of the templates of a room as an HTML text; it may include those beside this file."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(place, ".") for place in dict.fromkeys((room, "longrl.evaluation"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, clock=clock, seconds=seconds)
    return environment.get_template(template).render(**values)


def clock(value: float, duration: float) -> str:
    """A moment of a film: 75.2 as "1:15", or "1.5 s" where the whole film is short.

    >>> clock(75.2, 120.0), clock(1.52, 3.0)
    ('1:15', '1.5 s')
    """
    return f"{value:.1f} s" if duration < 10 else f"{int(value) // 60}:{int(value) % 60:02d}"


def seconds(value: float) -> str:
    """A duration a person reads at a glance, 75.2 as "1 min 15 s"."""
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 60 else f"{int(value) // 60} min {int(value) % 60} s"

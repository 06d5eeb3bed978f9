"""The calibration curve as a picture."""

from __future__ import annotations

from markupsafe import Markup

from polytask.domains.recommend.metrics import CalibrationCurve
from polytask.reports.svg import picture, place, segment, text, ticks

SIZE, LEFT, BOTTOM = 360.0, 56.0, 44.0
STYLE = Markup(
    "<style>.calibration .grid{stroke:#8884}.calibration .ideal{stroke:#888;stroke-dasharray:4 3}"
    ".calibration .curve{fill:none;stroke:#3367d6;stroke-width:2}.calibration .dot{fill:#3367d6}"
    ".calibration text{font:12px sans-serif;fill:#777}</style>"
)


def calibration(curve: CalibrationCurve, title: str = "calibration") -> str:
    """An SVG: mean prediction to the right, what happened upwards; on the dashed line the two agree.

    >>> from polytask.domains.recommend.metrics import calibration_curve
    >>> calibration(calibration_curve([0.1, 0.1, 0.9, 0.9], [0, 0, 1, 0], bins=2)).startswith("<svg")
    True
    """
    low = 0.0
    high = max(float(curve.predicted.max()), float(curve.observed.max()), 1e-9) * 1.05

    def across(value: float) -> float:
        return place(value, low, high, LEFT, SIZE - 12)

    def upwards(value: float) -> float:
        return place(value, low, high, SIZE - BOTTOM, 12)

    body = [STYLE]
    for tick in ticks(low, high):
        body += [segment(LEFT, upwards(tick), SIZE - 12, upwards(tick), "grid"),
                 text(LEFT - 6, upwards(tick) + 4, f"{tick:g}", "", "end"),
                 text(across(tick), SIZE - BOTTOM + 16, f"{tick:g}", "", "middle")]  # fmt: skip
    body.append(segment(across(low), upwards(low), across(high), upwards(high), "ideal"))
    points = [(across(x), upwards(y)) for x, y in zip(curve.predicted.tolist(), curve.observed.tolist(), strict=True)]
    body.append(Markup('<polyline class="curve" points="{}"/>').format(" ".join(f"{x:.1f},{y:.1f}" for x, y in points)))
    body += [Markup('<circle class="dot" cx="{}" cy="{}" r="3"/>').format(f"{x:.1f}", f"{y:.1f}") for x, y in points]
    body.append(text((LEFT + SIZE) / 2, SIZE - 8, "predicted", "", "middle"))
    body.append(text(LEFT, 10, "observed", "", "end"))
    drawn = picture(SIZE, SIZE, title, body, "calibration")
    return str(drawn).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)

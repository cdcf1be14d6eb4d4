"""Pictures of what a backfill costs, as measured and by the model."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import altair as alt
import numpy as np
import vl_convert

from pipelines.summary.charts import BLUE, GREY, GRID, INK, RED
from tests.benchmarks.curves import Measured, Model, costs, factors, sizes

Chart = alt.LayerChart | alt.FacetChart


def draw(measured: Sequence[Measured], folder: Path) -> list[Path]:
    """Draw seconds and MiB against messages, and seconds by what differs from the base; the files."""
    model = costs(measured)
    pictures = {
        "seconds": _curve(measured, "seconds", model.seconds, "Seconds of a backfill, by messages", "log"),
        "memory": _curve(measured, "mib", model.mib, "Peak MiB of a backfill, by messages", "linear"),
        "factors": _bars(measured),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, chart in pictures.items():
        paths.append(folder / f"scale-{name}.svg")
        paths[-1].write_text(_svg(chart), encoding="utf-8")
    return paths


def _curve(
    measured: Sequence[Measured], what: str, model: Model, title: str, scale: Literal["log", "linear"]
) -> Chart:
    """Dots where it was measured, a hollow one where it was held out, and the model's line; messages on a
    logarithmic scale."""
    seen = sizes(measured)
    least, most = seen[0].point, seen[-1].point
    along = [replace(least, messages=round(n)) for n in np.geomspace(least.messages, most.messages, 81)]
    line = [
        {"messages": point.messages, "value": round(model.of(point), 3), "kind": "model"} for point in along
    ]
    kinds = ("measured", "measured, held out")
    dots = [
        {
            "messages": each.point.messages,
            "value": round(getattr(each, what), 3),
            "kind": kinds[each.point.held_out],
        }
        for each in seen
    ]
    ticks = alt.Axis(format="~s", labelFlush=False, values=[each.point.messages for each in seen])
    x = alt.X("messages:Q", scale=alt.Scale(type="log", nice=False), title="messages", axis=ticks)
    steps = [step * 10**power for power in range(5) for step in (1, 2, 5)]
    axis = alt.Axis(format=",~r", values=steps) if scale == "log" else alt.Axis(format=",~r", tickCount=5)
    y = alt.Y("value:Q", scale=alt.Scale(type=scale), title=None, axis=axis)
    names = ["model", *kinds]
    stroke = alt.Stroke("kind:N", scale=alt.Scale(domain=names, range=[BLUE, INK, RED]))
    fill = alt.Fill("kind:N", scale=alt.Scale(domain=names, range=[BLUE, INK, "white"]))
    drawn = alt.Chart(alt.Data(values=line)).mark_line(strokeWidth=2).encode(x=x, y=y, stroke=stroke)
    marks = (
        alt.Chart(alt.Data(values=dots))
        .mark_point(size=70, opacity=1)
        .encode(x=x, y=y, stroke=stroke, fill=fill)
    )
    return alt.layer(drawn, marks).properties(width=520, height=260, title=title)


def _bars(measured: Sequence[Measured]) -> Chart:
    """Wall and CPU seconds of the base and of what differs from it in one thing, one bar each."""
    shown = factors(measured)
    key = {"wall s": BLUE, "CPU s": GREY}
    rows: list[dict[str, Any]] = [
        {"case": each.point.case, "kind": kind, "value": round(value, 3), "label": f"{value:,.1f}"}
        for each in shown
        for kind, value in zip(key, (each.seconds, each.cpu))
    ]
    y = alt.Y("case:N", sort=[each.point.case for each in shown], title=None)
    offset = alt.YOffset("kind:N", sort=list(key))
    x = alt.X(
        "value:Q", title=None, axis=None, scale=alt.Scale(domainMax=1.1 * max(row["value"] for row in rows))
    )
    colour = alt.Color("kind:N", scale=alt.Scale(domain=list(key), range=list(key.values())))
    bars = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, yOffset=offset)
    labels = bars.mark_text(align="left", dx=4, fontSize=11, color=INK).encode(text="label:N")
    title = f"Seconds of {shown[0].point.messages:,} messages, one thing changed at a time"
    return (bars.mark_bar().encode(color=colour) + labels).properties(
        width=460, height=alt.Step(16), title=title
    )


def _svg(chart: Chart) -> str:
    """On white, so that it is legible on a dark page too."""
    themed = (
        chart.configure(aria=False, background="white", font="Helvetica, Arial, sans-serif", padding=12)
        .configure_view(stroke=None)
        .configure_title(color=INK, fontSize=14, anchor="start")
        .configure_axis(
            labelColor=INK, titleColor=INK, gridColor=GRID, domainColor=GRID, tickColor=GRID, labelFontSize=12
        )
        .configure_legend(orient="top", title=None, labelColor=INK, labelFontSize=12)
    )
    drawn: str = vl_convert.vegalite_to_svg(themed.to_dict())
    return drawn + "\n"

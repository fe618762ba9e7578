"""Every chart as inline SVG: histograms, curves over training, sparsity against quality.

Pages, the report of a run and the pictures of the comparison draw with these alone, in the colours
of css/colours.css. Words beside a plot are HTML, so that they keep their size at any width; a
picture of its own (`plot(..., standalone=True)`) has its words in it.
"""

from app.web.charts.colours import STANDALONE_STYLE
from app.web.charts.curves import Series, band, bars, curves
from app.web.charts.histogram import Tick, histogram, thinned_ticks
from app.web.charts.pareto import CURVES, METRICS, Line, lines_of, plot
from app.web.charts.scale import Scale, linear_ticks

__all__ = [
    "CURVES",
    "METRICS",
    "STANDALONE_STYLE",
    "Line",
    "Scale",
    "Series",
    "Tick",
    "band",
    "bars",
    "curves",
    "histogram",
    "linear_ticks",
    "lines_of",
    "plot",
    "thinned_ticks",
]

"""Small pages with one fault each, and without it: what the visual checks are tested on."""

from dataclasses import dataclass
from typing import Final

BASE: Final = """<!doctype html><html lang="en"><style>
  :root { color-scheme: light; background: white; color: #1c2024; font: 16px/1.5 sans-serif; }
  body { margin: 40px; } .panel { border: 1px solid #ccc; padding: 12px; max-width: 600px; }
  a { color: #1d5bb8; } button { min-height: 30px; min-width: 30px; }
</style><main>"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A page with a fault and the complaint it must bring, and the page without it."""

    check: str
    fault: str
    complaint: str
    """Part of one of the faulty page's complaints."""
    sound: str
    forced: bool = False


SHARE = """<style>.mini {{ display: inline-block; width: 84px; height: 5px }} {rule}</style>
<div class="panel"><table><tr><td>#3954</td><td class="n share"><span class="mini"></span>
<span>0.85 %</span></td></tr></table></div>"""
SHARE_RULE = ".share { display: flex; height: 8px; margin-bottom: 8px; overflow: hidden }"
LINE = "width: 90px; white-space: nowrap; overflow: hidden"
CHART = """<style>.plot {{ position: relative; height: 60px }}
.plot span {{ position: absolute; font-size: 12px; white-space: nowrap }}</style>
<div class="panel"><div class="plot" aria-hidden="true"><span style="left: 40px; top: 0">threshold
1.99</span><span style="left: {left}px; top: 4px">1,000</span></div></div>"""
WIDE = "<table><tr>" + "<td>a long column of numbers</td>" * 12 + "</tr></table>"
BUTTON = """<style>button {{ background: #a94c06; color: #fff }} {rule}</style>
<button{more}>Generate</button>"""
NAV = """<style>nav a {{ display: inline-block; padding: 8px; text-decoration: none;
border-bottom: 2px solid transparent }} nav [aria-current] {{ {rule} }}</style>
<nav><a href="a" aria-current="page">Prompt</a> <a href="b">Steer</a></nav>"""
TOKENS = """<style>.tokens span[style] {{ background: color-mix(in srgb, #f59e0b calc(var(--a)
* 78%), transparent); {rule} }}</style>
<p class="tokens"><span>The</span><span style="--a:0.8"> ship</span></p>"""
PEAK = """<style>.peak {{ {rule} }} .far {{ display: none }}</style>
<p class="tokens"><span class="far">Once</span><span>The</span><span class="peak" style="--a:1">
ship</span></p>"""
MINI = """<style>.mini {{ display: block; height: 8px; background: #eee }}
.mini i {{ display: block; height: 8px; width: 40px; background: #f59e0b; {rule} }}</style>
<div class="panel"><span class="mini"><i></i></span></div>"""
SHEET = """<div style="height: 3000px"></div>
<p style="position: absolute; top: 866px; margin: 0">Below the sheet.</p>
<div style="position: fixed; left: 0; bottom: 0; height: 500px">
<div style="background: white; height: 470px"><button>Close</button></div><b>The end.</b></div>"""
BELOW = """<style>.foot a {{ position: relative; display: block; width: 60px; line-height: 20px }}
.foot a::after {{ {rule} }}</style>
<div data-overlay style="position: fixed; bottom: 0; height: 90px; overflow: auto">
<div style="height: 2000px"></div><div class="foot" style="padding: 10px"><a href="all">All</a>
</div></div>"""
CHART_BAR = """<style>.bar {{ fill: #fdfdfd; {rule} }}</style>
<svg width="100" height="60"><rect class="bar" width="30" height="40"/></svg>"""
CHOSEN_ROW = """<style>[aria-current] {{ {rule} }} button {{ border: 0 }}</style>
<table><tr aria-current="true"><td><button aria-pressed="true">#7</button></table>"""
ROW = """<style>tr {{ position: relative; height: 30px }} td {{ font-size: 13px }}
td a::after {{ {rule} }}</style><table class="panel"><tr><td><a href="f">#7</a><td>sea</table>"""

CASES: Final = {
    "a rule of another page lays a cell out as a bar": Case(
        check="cut",
        fault=SHARE.format(rule=SHARE_RULE),
        complaint='td.n.share > span "0.85 %" is cut off: td.n.share "0.85 %" of',
        sound=SHARE.format(rule=""),
    ),
    "a line that its box cuts": Case(
        check="cut",
        fault=f'<p style="{LINE}">A long line of text</p>',
        complaint='p "A long line of text" is cut off',
        sound=f'<p style="{LINE}; text-overflow: ellipsis">A long line of text</p>'
        f'<p style="{LINE}" data-clip>A long line of text</p>'
        f'<p style="{LINE}; overflow: auto">A long line of text</p>'
        '<p style="position: absolute; width: 1px; height: 1px; overflow: hidden">for ears</p>'
        "<p hidden>hidden</p><details><summary>more</summary>closed</details>"
        '<a href="#x" style="position: absolute; top: -60px">Skip</a>'
        '<div style="height: 1px; overflow: hidden"><b style="position: absolute">out</b></div>'
        f'<div style="{LINE}"><p style="{LINE}; text-overflow: ellipsis">A long line of text</div>',
    ),
    "text of no size": Case(
        check="cut",
        fault='<p>Seen <span style="font-size: 0">unseen</span></p>',
        complaint='span "unseen" has no box',
        sound='<p>Seen <span style="font-size: 0" aria-hidden="true">unseen</span></p>',
    ),
    "a scroll container without room": Case(
        check="cut",
        fault='<div style="height: 4px; overflow-y: auto">Ten lines</div>',
        complaint='div "Ten lines" is cut off',
        sound='<div style="height: 40px; overflow-y: auto">Ten lines<br><br><br>more</div>',
    ),
    "a number wider than its field": Case(
        check="cut",
        fault='<input type="number" value="123456789" style="width: 40px">',
        complaint="is too narrow for 123456789",
        sound='<input type="number" value="1" style="width: 40px">',
    ),
    "a column that leaves no room for words": Case(
        check="squeezed",
        fault='<p style="width: 40px">her she herself maid sex and queen</p>',
        complaint='p "her she herself maid sex and q" is squeezed: 34 letters in',
        sound='<p style="width: 200px">her she herself maid sex and queen</p>'
        '<p style="width: 40px">fires on more</p>',
    ),
    "labels of a chart run into each other": Case(
        check="overlaps",
        fault=CHART.format(left=90),
        complaint='span "threshold 1.99" and div.plot > span "1,000" overlap by',
        sound=CHART.format(left=300),
    ),
    "a field over a sentence": Case(
        check="overlaps",
        fault='<p>One sentence.</p><input style="position: relative; top: -40px">',
        complaint='input[type=text] and main > p "One sentence." overlap by',
        sound="<p>One sentence.</p><input>" + SHEET,
    ),
    "a box over a sentence": Case(
        check="overlaps",
        fault='<p>One sentence.</p><div class="lid" style="position: absolute; top: 40px;'
        ' left: 0; width: 200px; height: 60px; background: white"></div>',
        complaint='div.lid lies over main > p "One sentence."',
        sound='<p style="position: relative">One sentence.<a href="#x" style="position: static">'
        '<span style="position: absolute; inset: 0"></span></a></p>'
        '<div data-overlay style="position: absolute; top: 40px; background: white">A tip</div>'
        "<dialog open>A question</dialog>",
    ),
    "a line that leaves its card": Case(
        check="escapes",
        fault='<div class="panel" style="width: 90px"><p style="white-space: nowrap">A line longer'
        " than its card</p></div>",
        complaint='p "A line longer than its card" leaves its card by',
        sound='<div class="panel" style="width: 90px"><p>A line longer than its card</p>'
        '<p style="position: fixed; white-space: nowrap">A tip as wide as it likes</p></div>',
    ),
    "a table wider than the window": Case(
        check="escapes",
        fault=WIDE.replace("<td>", '<td style="white-space: nowrap">'),
        complaint="px wider than the window of 1440",
        sound=f'<div class="panel" style="overflow-x: auto; width: 300px">{WIDE}</div>',
    ),
    "a disabled button in the grey of its own background": Case(
        check="contrast",
        fault=BUTTON.format(
            rule="button:disabled { color: #59616b; opacity: 0.55 }", more=" disabled"
        ),
        complaint='button "Generate": contrast 1.0',
        sound=BUTTON.format(rule="button:disabled { opacity: 0.9 }", more=" disabled"),
    ),
    "a state that is not the page's": Case(
        check="contrast in all states",
        fault=BUTTON.format(rule="button:disabled { background: #eee; color: #888 }", more=""),
        complaint='button "Generate", disabled: contrast 3.0',
        sound=BUTTON.format(rule="button:disabled { background: #eee; color: #555 }", more=""),
    ),
    "a busy button": Case(
        check="contrast in all states",
        fault=BUTTON.format(rule="[aria-busy=true] { opacity: 0.5 }", more=""),
        complaint='button "Generate", busy: contrast 2.2',
        sound=BUTTON.format(rule="[aria-busy=true] { cursor: progress }", more=""),
    ),
    "hovered": Case(
        check="contrast in all states",
        fault=BUTTON.format(rule="button:hover { background: #fff3e0 }", more=""),
        complaint='button "Generate", hover: contrast 1.1',
        sound=BUTTON.format(rule="button:hover { background: #8a3d04 }", more=""),
    ),
    "with the focus": Case(
        check="contrast in all states",
        fault=BUTTON.format(rule="button:focus-visible { color: #d9a27c }", more=""),
        complaint='button "Generate", focus: contrast 2.',
        sound=BUTTON.format(rule="p:focus-visible { color: #fff }", more=""),
    ),
    "chosen": Case(
        check="contrast in all states",
        fault=BUTTON.format(
            rule="[aria-pressed=true] { color: #a94c06 }", more=' aria-pressed="false"'
        ),
        complaint='button "Generate", chosen: contrast 1.00',
        sound=BUTTON.format(
            rule="[aria-pressed=true] { background: #502403 }", more=' aria-pressed="false"'
        ),
    ),
    "chosen and hovered": Case(
        check="contrast in all states",
        fault=BUTTON.format(
            rule="[aria-pressed=true] { background: #fff; color: #1c2024 }"
            " button[aria-pressed]:hover { color: #fff }",
            more=' aria-pressed="false"',
        ),
        complaint='button "Generate", chosen and hover: contrast 1.00',
        sound=BUTTON.format(
            rule="[aria-pressed=true] { background: #fff; color: #1c2024 }"
            " button:hover { outline: 1px solid }",
            more=' aria-pressed="false"',
        ),
    ),
    "grey on a translucent colour": Case(
        check="contrast",
        fault='<p style="background: rgb(0 0 0 / 40%)"><b style="color: #59616b">soft</b></p>',
        complaint='p > b "soft": contrast 2.',
        sound='<p style="background: rgb(0 0 0 / 4%)"><b style="color: #59616b">soft</b></p>',
    ),
    "groups mixed in by opacity": Case(
        check="contrast",
        fault='<div style="opacity: 0.5"><p style="background: #222; color: #fff">faint</p></div>',
        complaint='p "faint": contrast 3.',
        sound='<div style="opacity: 0.9"><p style="background: #222; color: #fff">faint</p></div>',
    ),
    "one end of a gradient": Case(
        check="contrast",
        fault='<p style="background: linear-gradient(90deg, white, #666)">words</p>',
        complaint='p "words": contrast 2.',
        sound='<p style="background: linear-gradient(#666, #666) 0 100% / 40% 2px no-repeat">words',
    ),
    "a bar of a chart under its label": Case(
        check="contrast",
        fault='<svg width="200" height="60"><rect width="200" height="60" fill="#555"/>'
        '<text x="20" y="30" fill="#1c2024">label</text></svg>',
        complaint='text "label": contrast 2.',
        sound='<svg width="200" height="60"><rect width="10" height="60" fill="#555"/>'
        '<text x="20" y="30" fill="#1c2024">label</text></svg>',
    ),
    "a placeholder": Case(
        check="contrast",
        fault="<style>::placeholder { color: #aaa }</style><input placeholder='Number'>",
        complaint="input[type=text]::placeholder: contrast 2.3",
        sound="<style>::placeholder { color: #555 }</style><input placeholder='Number'>",
    ),
    "a page's rule without its page": Case(
        check="sheets",
        fault='<style data-sheet="overview">[data-page="overview"] .a, .share { height: 8px }'
        "@media (min-width: 1px) { .bar { height: 0 } }</style>",
        complaint='overview: ".share" does not begin with [data-page="overview"]',
        sound='<style data-sheet="overview">[data-page="overview"] :is(.a, .share) { height: 8px }'
        'html[data-page="overview"] { .bar { height: 0 } } @keyframes run { to { top: 0 } }</style>'
        '<style data-sheet="parts">.share { height: 8px }</style>',
    ),
    "a page's rule within a media query": Case(
        check="sheets",
        fault='<style data-sheet="steer">@media (min-width: 1px) { .turn { top: 0 } }</style>',
        complaint='steer: ".turn" does not begin with [data-page="steer"]',
        sound='<style data-sheet="steer">@media (min-width: 1px)'
        ' { [data-page="steer"] .turn { top: 0 } }</style>',
    ),
    "a small button": Case(
        check="targets",
        fault='<button style="min-height: 0; min-width: 0; padding: 0; border: 0">x</button>',
        complaint='main > button "x" is a target of',
        sound='<button>x</button><p>A sentence with <a href="#x">a link</a> in it.</p>'
        '<p class="tokens"><span role="button" tabindex="0">a</span></p>',
    ),
    "a row that its link does not fill": Case(
        check="targets",
        fault=ROW.format(rule=""),
        complaint='td > a "#7" is a target of',
        sound=ROW.format(rule='content: ""; position: absolute; inset: 0'),
    ),
    "a small target far down in a box that scrolls": Case(
        check="targets",
        fault=BELOW.format(rule=""),
        complaint='div.foot > a "All" is a target of 60x20 px',
        sound=BELOW.format(rule='content: ""; position: absolute; inset: -4px 0'),
    ),
    "no ring": Case(
        check="rings",
        fault="<style>:focus-visible { outline: none }</style><button>Go</button>",
        complaint='button "Go" does not show that it has the focus',
        sound="<button>Go</button><style>.pick { position: absolute; opacity: 0 }"
        ".pick:focus-visible + span { outline: 2px solid #1d5bb8 }</style>"
        '<label><input type="radio" class="pick"><span>One</span></label>',
    ),
    "a faint ring": Case(
        check="rings",
        fault="<style>:focus-visible { outline: 2px solid #ddd }</style><button>Go</button>",
        complaint='button "Go" has a focus ring of contrast 1.',
        sound="<style>:focus-visible { outline: 2px solid #1d5bb8 }</style><button>Go</button>",
    ),
    "a ring that is cut off": Case(
        check="rings",
        fault="<style>:focus-visible { outline: 2px solid #1d5bb8; outline-offset: 2px }</style>"
        '<div style="overflow: hidden; display: inline-flex"><button>Go</button></div>',
        complaint='button "Go" has a focus ring that is cut off',
        sound="<style>:focus-visible { outline: 2px solid #1d5bb8; outline-offset: -2px }</style>"
        '<div style="overflow: hidden; display: inline-flex"><button>Go</button></div>',
    ),
    "a heat map of backgrounds alone": Case(
        check="marks",
        fault=TOKENS.format(rule=""),
        complaint='span "ship" of value 0.8 looks as if it had none',
        sound=TOKENS.format(rule="text-decoration: underline 3px")
        + TOKENS.replace(".tokens", ".own")
        .replace('"tokens"', '"own"')
        .format(rule="forced-color-adjust: none"),
        forced=True,
    ),
    "a peak that is like the tokens without a value": Case(
        check="marks",
        fault=PEAK.format(rule="background: #fc8"),
        complaint='span.peak "ship" of value 1 looks as if it had none',
        sound=PEAK.format(rule="outline: 2px solid"),
        forced=True,
    ),
    "the page that one is on": Case(
        check="marks",
        fault=NAV.format(rule="border-color: #a94c06; color: black"),
        complaint='a "Prompt" is chosen (aria-current) and does not look it',
        sound=NAV.format(rule="border-bottom-width: 4px"),
        forced=True,
    ),
    "a chosen row": Case(
        check="marks",
        fault=CHOSEN_ROW.format(rule="background: #eee"),
        complaint='tr "#7" is chosen (aria-current) and does not look it',
        sound=CHOSEN_ROW.format(rule="outline: 2px solid"),
        forced=True,
    ),
    "a styled radio button": Case(
        check="marks",
        fault="<style>input { appearance: none } :checked + span { background: #fc8 }</style>"
        '<label><input type="radio" checked><span>One</span></label>',
        complaint="is checked and does not look it",
        sound="<style>input { appearance: none } :checked + span { font-weight: 700 }</style>"
        '<label><input type="radio" checked><span>One</span></label>',
        forced=True,
    ),
    "bars of a chart": Case(
        check="marks",
        fault=CHART_BAR.format(rule=""),
        complaint="rect.bar of 30x40 px is not told from what is behind it",
        sound=CHART_BAR.format(rule="stroke: CanvasText"),
        forced=True,
    ),
    "bars": Case(
        check="marks",
        fault=MINI.format(rule=""),
        complaint="span.mini > i of 40x8 px is not told from what is behind it",
        sound=MINI.format(rule="outline: 1px solid"),
        forced=True,
    ),
}

"""The page of a report: its style sheet, its few lines of script, and the frame around the sections."""

from __future__ import annotations

from html import escape

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f8; --card: #fff; --ink: #1a2129; --muted: #5b6670; --line: #dfe3e7;
  --accent: #0b6e8f; --grid: #e6eaed; --real: #0a6b3d; --real-back: #dcf3e6; --sim: #8a3b00; --sim-back: #ffe8d1;
  --warn-back: #fff6dc; --warn-line: #e0b400; --warn-ink: #4d3d00; }
@media (prefers-color-scheme: dark) { :root { --page: #0e1317; --card: #161d23; --ink: #e7ecf0; --muted: #9aa7b2;
  --line: #2a343d; --accent: #57c1e3; --grid: #232c34; --real: #8fe3b4; --real-back: #113a26; --sim: #ffc48c;
  --sim-back: #47260a; --warn-back: #2c2508; --warn-line: #c79f00; --warn-ink: #f6e3a1; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 .4em; }
h2 { font-size: 1.25rem; letter-spacing: -.01em; margin: 2.4em 0 .8em; }
h3 { font-size: 1rem; margin: 0 0 .5em; }
p { margin: 0 0 .8em; max-width: 72ch; }
a { color: var(--accent); }
.lead { font-size: 1.08rem; color: var(--muted); }
.muted, figcaption, td.note { color: var(--muted); }
.notice { background: var(--warn-back); border-left: 4px solid var(--warn-line); color: var(--warn-ink);
  border-radius: 6px; padding: 12px 16px; margin: 1.4em 0; }
.notice p { margin: 0; max-width: none; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px; min-width: 0; }
.charts, .frames, .summary { display: grid; gap: 16px; }
.summary { grid-template-columns: repeat(auto-fit, minmax(min(250px, 100%), 1fr)); margin: 0; }
.summary dt { color: var(--muted); font-size: .84rem; }
.summary dd { margin: 2px 0 0; font-size: 1.18rem; font-weight: 600; line-height: 1.3; overflow-wrap: anywhere; }
.charts .card { display: flex; flex-direction: column; }
.charts .card svg { margin-top: auto; }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(310px, 100%), 1fr)); }
.frames .card { padding: 10px; }
.frames figcaption { padding: 0 4px 4px; }
.frames { grid-template-columns: repeat(auto-fill, minmax(min(230px, 100%), 1fr)); }
.sheet { display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); align-items: start; }
.sheet.pairs { grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); }
.sheet figcaption { font-size: .72rem; margin-top: .2em; line-height: 1.3; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; align-items: center; }
.scroll { overflow-x: auto; padding: 6px 18px; }
.scroll table { min-width: 620px; }
.scroll.narrow { padding: 0; }
.scroll.narrow table { min-width: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 10px 14px 10px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-size: .84rem; font-weight: 600; color: var(--muted); }
tbody th { font-size: inherit; color: var(--ink); }
tr:last-child > td, tr:last-child > th[scope=row] { border-bottom: 0; }
.figure { text-align: right; white-space: nowrap; }
.badge { display: inline-block; border-radius: 5px; padding: 2px 9px; font-size: .76rem; font-weight: 700;
  letter-spacing: .06em; text-transform: uppercase; border: 1.5px solid; white-space: nowrap; }
.real { color: var(--real); background: var(--real-back); }
.simulated { color: var(--sim); background: var(--sim-back); border-style: dashed; }
.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--muted); font-size: 11.5px; font-variant-numeric: tabular-nums; }
.chart .grid { stroke: var(--grid); }
.chart .axis { stroke: var(--muted); fill: none; }
.chart .curve { stroke: var(--accent); stroke-width: 2; fill: none; stroke-linejoin: round; }
.chart .dot { fill: var(--accent); }
details { margin-top: .6em; font-size: .88rem; }
summary { cursor: pointer; color: var(--muted); }
details div { max-height: 15em; overflow: auto; }
details td, details th { padding: 3px 14px 3px 0; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #000; }
figcaption { font-size: .88rem; margin-top: .6em; overflow-wrap: anywhere; }
figcaption strong { color: var(--ink); display: block; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; list-style: none; padding: 0; margin: 0 0 14px;
  font-size: .9rem; }
.legend i { display: inline-block; width: 22px; height: 0; border-top: 3px solid; vertical-align: middle;
  margin-right: 8px; }
.cine { display: grid; gap: 20px; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr)); }
.controls { display: flex; gap: 12px; align-items: center; margin-top: 12px; }
.controls[hidden] { display: none; }
.controls button { font: inherit; font-weight: 600; color: var(--card); background: var(--accent); border: 0;
  border-radius: 6px; padding: 6px 0; width: 5.6em; cursor: pointer; }
.controls input { flex: 1; min-width: 60px; accent-color: var(--accent); }
.controls output { font-size: .88rem; color: var(--muted); font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { background: var(--grid); border-radius: 4px; height: 12px; min-width: 120px; margin-top: 6px; }
.bar i { display: block; height: 100%; background: var(--accent); border-radius: 4px; min-width: 2px; }
code { font: .92em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; margin: 0 0 1em;
  white-space: pre-wrap; }
ul.facts { margin: 0; padding-left: 1.2em; }
footer { margin-top: 3em; padding-top: 1em; border-top: 1px solid var(--line); color: var(--muted); font-size: .88rem; }
@media (max-width: 560px) { main { padding: 24px 14px 40px; } h1 { font-size: 1.65rem; } .card { padding: 14px; } }
@media print { :root { color-scheme: light; --page: #fff; --card: #fff; --ink: #000; --muted: #444; --line: #bbb;
  --accent: #0b6e8f; --grid: #ddd; --real: #0a6b3d; --real-back: #fff; --sim: #8a3b00; --sim-back: #fff;
  --warn-back: #fff; --warn-ink: #000; }
  main { max-width: none; padding: 0; } .controls, details { display: none; } h2 { break-after: avoid; }
  .frames { grid-template-columns: repeat(4, 1fr); } .charts { grid-template-columns: repeat(3, 1fr); }
  .card, figure, tr, .notice { break-inside: avoid; } body { font-size: 11pt; }
  .bar, .bar i, figure img { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""

# Frames and their times are data in the page; without a script the first frame stands still.
_SCRIPT = """
(function () {
  const data = document.getElementById("cine-data");
  if (!data) return;
  const cine = JSON.parse(data.textContent), count = cine.frames.length;
  const image = document.getElementById("cine-image"), button = document.getElementById("cine-play");
  const slider = document.getElementById("cine-slider"), where = document.getElementById("cine-where");
  let index = 0, timer = null;
  document.getElementById("cine-controls").hidden = count < 2;
  function show(next) {
    index = next;
    image.src = cine.frames[index];
    slider.value = index;
    where.textContent = (index + 1) + " / " + count + ", " + (cine.times[index] / 1000).toFixed(2) + " s";
  }
  function pause() { clearTimeout(timer); timer = null; button.textContent = "Play"; }
  function step() {
    const last = index === count - 1;
    const wait = last ? 600 : cine.times[index + 1] - cine.times[index];
    timer = setTimeout(function () { show(last ? 0 : index + 1); step(); }, Math.min(Math.max(wait, 15), 1000));
  }
  function play() { button.textContent = "Pause"; step(); }
  button.addEventListener("click", function () { if (timer === null) { play(); } else { pause(); } });
  slider.addEventListener("input", function () { pause(); show(Number(slider.value)); });
  show(0);
  if (count > 1 && !window.matchMedia("(prefers-reduced-motion: reduce)").matches) play();
})();
"""


def page(title: str, body: str) -> str:
    """The whole HTML document: nothing in it is loaded from elsewhere, which its content policy also forbids."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )

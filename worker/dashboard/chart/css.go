package chart

// CSS is the part of a stylesheet that charts need. Texts have the color of their surroundings.
// A page that has another background than the system's sets --chart-background.
//
// Each color has a contrast of 4.5 to 1 or more, on white in the light scheme and on #10151d in
// the dark one.
const CSS = `
.chart {
  --c1: #1d5fc4; --c2: #a84300; --c3: #04704f; --c4: #7a35d6; --c5: #b91646; --c6: #0b6e87; --limit: #b3001b;
  margin: 0;
}
@media (prefers-color-scheme: dark) {
  .chart { --c1: #7db3ff; --c2: #ffb454; --c3: #4fd6a0; --c4: #c6a8ff; --c5: #ff8fa8; --c6: #67d8ee; --limit: #ff7b72; }
}
.chart svg { display: block; width: 100%; overflow: visible; }
.chart text { fill: currentColor; font-size: 12px; font-variant-numeric: tabular-nums; }
.chart .axis { paint-order: stroke; stroke: var(--chart-background, Canvas); stroke-width: 3px; stroke-linejoin: round; }
.chart .grid { stroke: currentColor; stroke-opacity: .22; stroke-width: 1; }
.chart .line { fill: none; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.chart .area { stroke: none; fill-opacity: .22; }
.chart .c1 { stroke: var(--c1); fill: var(--c1); } .chart .d1 { stroke-dasharray: none; }
.chart .c2 { stroke: var(--c2); fill: var(--c2); } .chart .d2 { stroke-dasharray: 7 4; }
.chart .c3 { stroke: var(--c3); fill: var(--c3); } .chart .d3 { stroke-dasharray: 1 4; }
.chart .c4 { stroke: var(--c4); fill: var(--c4); } .chart .d4 { stroke-dasharray: 9 4 1 4; }
.chart .c5 { stroke: var(--c5); fill: var(--c5); } .chart .d5 { stroke-dasharray: 4 4; }
.chart .c6 { stroke: var(--c6); fill: var(--c6); } .chart .d6 { stroke-dasharray: 9 4 1 4 1 4; }
.chart .limit { stroke: var(--limit); stroke-dasharray: 14 5; }
.chart .line.c1, .chart .line.c2, .chart .line.c3, .chart .line.c4, .chart .line.c5, .chart .line.c6, .chart .line.limit { fill: none; }
.chart .area.c1, .chart .area.c2, .chart .area.c3, .chart .area.c4, .chart .area.c5, .chart .area.c6 { stroke: none; }
.chart .track { fill: currentColor; fill-opacity: .09; }
.chart .bar { stroke: none; fill: var(--c1); }
.chart .number { text-anchor: end; }
.chart .unknown { text-anchor: middle; font-style: italic; }
.chart a:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
.chart a text { fill: var(--c1); text-decoration: underline; }
.chart a .number { fill: currentColor; text-decoration: none; }
.chart figcaption { font-weight: 600; margin-bottom: .4em; }
.chart figcaption small { font-weight: 400; opacity: .8; }
.chart .legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2em 1.2em; margin: .5em 0 0; padding: 0; font-size: 13px; }
.chart .legend li { display: flex; align-items: center; gap: .45em; min-width: 0; overflow-wrap: anywhere; }
.chart .legend svg { width: 30px; flex: none; }
.chart .legend b { font-weight: 600; font-variant-numeric: tabular-nums; }
`

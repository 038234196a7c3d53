// Package chart draws charts as inline SVG, on the server and without a script: a [Timeline] of
// several series, and [Bars] by name.
//
// What it returns is a figure for an HTML page: the SVG, and a legend or heading as HTML, which
// wraps on a narrow screen. It is also well-formed XML. Texts are never scaled: the SVG has the
// width of its surroundings, and only the curves stretch. Names and links may come from
// strangers: they are escaped by html/template, what cannot be printed in them is replaced, and
// what is long is cut off.
//
// No chart speaks by color alone: lines have dashes of their own, the legend has the same dashes
// and the latest numbers, and a title and a description say in words what is drawn. There is no
// style in the markup, so that a page may forbid inline styles: it must contain [CSS].
//
// The dashboard calls it. It imports no other package of this module but humanize.
package chart

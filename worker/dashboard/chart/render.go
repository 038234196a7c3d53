package chart

import (
	"html/template"
	"strings"
)

// The curves are in an SVG of their own, which stretches; what is beside them does not. That is
// why lines have vector-effect: they are as wide everywhere.
var charts = template.Must(template.New("").Parse(`
{{- define "timeline" -}}
<figure class="chart">
<figcaption>{{.Title}} <small>times in UTC</small></figcaption>
<svg role="img" aria-labelledby="{{.ID}}-title {{.ID}}-desc" width="100%" height="{{.Height}}">
<title id="{{.ID}}-title">{{.Title}}</title>
<desc id="{{.ID}}-desc">{{.Desc}}</desc>
{{range .Grid}}<line class="grid" x1="0" x2="100%" y1="{{.Y}}" y2="{{.Y}}"/>
{{end}}<svg x="0" y="{{.Top}}" width="100%" height="{{.PlotHeight}}" viewBox="0 0 1000 1000" preserveAspectRatio="none">
{{range .Curves}}{{if .Area}}<path class="area c{{.Style}}" d="{{.Area}}"/>
{{end}}{{end}}{{range .Curves}}{{if .Line}}<path class="line c{{.Style}} d{{.Style}}" vector-effect="non-scaling-stroke" d="{{.Line}}"/>
{{end}}{{end}}{{if .Limit}}<path class="line limit" vector-effect="non-scaling-stroke" d="{{.Limit}}"/>
{{end}}</svg>
{{range .Grid}}<text class="axis" x="2" y="{{.TextY}}">{{.Text}}</text>
{{end}}{{range .Ticks}}<text class="axis" x="{{.X}}" y="{{$.TickY}}" text-anchor="{{.Anchor}}">{{.Text}}</text>
{{end}}{{if .Unknown}}<text class="axis unknown" x="50%" y="{{.MiddleY}}">{{.Unknown}}</text>
{{end}}</svg>
<ul class="legend">
{{range .Legend}}<li><svg width="30" height="10" viewBox="0 0 30 10" aria-hidden="true"><line class="line {{.Class}}" x1="2" x2="28" y1="5" y2="5"/></svg><span>{{.Name}} <b>{{.Number}}</b></span></li>
{{end}}</ul>
</figure>
{{end -}}

{{- define "bars" -}}
<figure class="chart">
<figcaption>{{.Title}}</figcaption>
<svg role="{{.Role}}" aria-labelledby="{{.ID}}-title {{.ID}}-desc" width="100%" height="{{.Height}}">
<title id="{{.ID}}-title">{{.Title}}</title>
<desc id="{{.ID}}-desc">{{.Desc}}</desc>
{{range .Rows}}{{if .Link}}<a href="{{.Link}}">{{template "row" .}}</a>{{else}}<g>{{template "row" .}}</g>{{end}}
{{else}}<text class="unknown" x="50%" y="22">Nothing to show.</text>
{{end}}</svg>
</figure>
{{end -}}

{{- define "row"}}<title>{{.Full}}</title><rect class="track" x="0" y="{{.BarY}}" width="100%" height="10" rx="2"/><rect class="bar" x="0" y="{{.BarY}}" width="{{.Width}}" height="10" rx="2"/><text x="0" y="{{.Y}}">{{.Name}}</text><text class="number" x="100%" y="{{.Y}}">{{.Number}}</text>{{end -}}
`))

// render renders a chart. The views have all that the templates ask for, so there is no error.
func render(name string, view any) template.HTML {
	var out strings.Builder
	if err := charts.ExecuteTemplate(&out, name, view); err != nil {
		return template.HTML("<!-- a chart could not be drawn -->")
	}
	return template.HTML(out.String()) //nolint:gosec // html/template has escaped it
}

package main

import (
	"fmt"
	"os"
	"slices"

	"portsyncd/internal/plot"
)

// draw plots the processor time of a message over the rate, which is the achieved one: medians of all runs, one line a
// daemon.
func (r *report) draw(file string, rates []rate) error {
	const width, height, left, top = 640, 460, 50, 45
	chart := plot.Chart{Title: "processor time of a link message, \u00b5s", Left: left, Top: top,
		Width: width - 2*left, Height: height - 2*top - 25, X: plot.Axis{Log: true}}
	var xs, ys []float64
	for i, d := range r.Daemons {
		line := plot.Line{Name: fmt.Sprintf("%c %s", 'A'+i, d.Command)}
		for _, one := range rates {
			p := plot.Point{X: median(d.named(achieved(one))), Y: median(d.named(costOfMessage(one)))}
			if one == asFast {
				p.Name = one.String()
			}
			line.Points = append(line.Points, p)
			xs, ys = append(xs, p.X), append(ys, p.Y)
		}
		chart.Lines = append(chart.Lines, line)
	}
	for _, one := range rates {
		if one != asFast {
			chart.X.Marks = append(chart.X.Marks, float64(one))
		}
	}
	xs = append(xs, chart.X.Marks...)
	chart.X.From, chart.X.To = slices.Min(xs)/1.5, slices.Max(xs)*1.5
	chart.Y = plot.Linear(1.2 * slices.Max(ys)) // names of the lines lie above them
	drawing := plot.Drawing{Width: width, Height: height, Charts: []plot.Chart{chart},
		Note: fmt.Sprintf("changes of ports' admin state a second, logarithmic; %d ports, medians of %d",
			r.Ports, len(r.Daemons[0].Runs))}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("-svg: %w", err)
	}
	if err := drawing.Write(f); err != nil {
		_ = f.Close()
		return fmt.Errorf("-svg: %w", err)
	}
	return f.Close()
}

// named is one figure of all runs, by its name.
func (d *daemonRuns) named(name string) []float64 {
	return d.column(slices.IndexFunc(d.Runs[0], func(f figure) bool { return f.Name == name }))
}

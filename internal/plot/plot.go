// Package plot draws line charts as SVG: what benchmarks find, for docs/ and for whoever runs them.
package plot

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"math"
)

// Drawing is charts on a white sheet.
type Drawing struct {
	Width, Height int
	Note          string // in the lower left corner
	Charts        []Chart
}

// Chart is a title, a grid, and lines. Left and Top say where in the drawing its plane begins; its title and what is
// written at its axes lie outside of that.
type Chart struct {
	Title                    string
	Left, Top, Width, Height float64
	X, Y                     Axis
	Lines                    []Line
}

// Axis goes from one value to a larger one. Marks are the values that are written at it.
type Axis struct {
	From, To float64
	Log      bool
	Marks    []float64
}

// Line joins its points. A name is for charts of more than one line.
type Line struct {
	Name   string
	Points []Point
}

// Point is drawn with its value, and with its name before that if it has one.
type Point struct {
	X, Y float64
	Name string
}

// Linear is an axis from zero to a round number that is not below high, with a mark at every step.
func Linear(high float64) Axis {
	if high <= 0 {
		high = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(high)))
	switch {
	case high < 2*step:
		step /= 5
	case high < 5*step:
		step /= 2
	}
	a := Axis{Marks: []float64{0}}
	for a.To < high {
		a.To = float64(len(a.Marks)) * step
		a.Marks = append(a.Marks, a.To)
	}
	return a
}

// share is how far along the axis a value is: 0 at its start, 1 at its end.
func (a Axis) share(v float64) float64 {
	if a.Log {
		return math.Log(v/a.From) / math.Log(a.To/a.From)
	}
	return (v - a.From) / (a.To - a.From)
}

func (c *Chart) x(v float64) float64 { return c.Left + c.X.share(v)*c.Width }
func (c *Chart) y(v float64) float64 { return c.Top + c.Height - c.Y.share(v)*c.Height }

var colours = []string{"#06c", "#c40", "#282", "#808"}

// Write writes the drawing.
func (d *Drawing) Write(w io.Writer) error {
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif"`+
		` font-size="11">`+"\n"+`<rect width="100%%" height="100%%" fill="#fff"/>`+"\n", d.Width, d.Height)
	for i := range d.Charts {
		d.Charts[i].write(&out)
	}
	fmt.Fprintf(&out, `<text x="35" y="%d" fill="#666">%s</text>`+"\n</svg>\n", d.Height-18, html.EscapeString(d.Note))
	_, err := w.Write(out.Bytes())
	return err
}

func (c *Chart) write(out *bytes.Buffer) {
	fmt.Fprintf(out, `<text x="%.0f" y="%.0f" font-weight="bold">%s</text>`+"\n",
		c.Left, c.Top-10, html.EscapeString(c.Title))
	for _, at := range c.Y.Marks { // six digits: a sum of steps is not round to the last of them
		fmt.Fprintf(out, `<path d="M%.0f %.1fh%.0f" stroke="#ddd"/>`, c.Left, c.y(at), c.Width)
		fmt.Fprintf(out, `<text x="%.0f" y="%.1f" text-anchor="end" fill="#666">%.6g</text>`+"\n",
			c.Left-3, c.y(at)+4, at)
	}
	under := 13.0
	if len(c.Lines) > 1 {
		under = 28 // of the values below the first line
	}
	for _, at := range c.X.Marks {
		fmt.Fprintf(out, `<text x="%.1f" y="%.0f" text-anchor="middle" fill="#666" font-size="9">%.0f</text>`+"\n",
			c.x(at), c.Top+c.Height+under, at)
	}
	for i, line := range c.Lines {
		c.writeLine(out, i, line)
	}
}

// writeLine draws one line. Of several, the first has its values below it and the others above them.
func (c *Chart) writeLine(out *bytes.Buffer, i int, line Line) {
	colour, beside := colours[i%len(colours)], -6.0
	if i == 0 && len(c.Lines) > 1 {
		beside = 15
	}
	if line.Name != "" {
		fmt.Fprintf(out, `<text x="%.0f" y="%.0f" text-anchor="end" fill="%s">%s</text>`+"\n",
			c.Left+c.Width, c.Top+15*float64(i)+12, colour, html.EscapeString(line.Name))
	}
	var path bytes.Buffer
	for k, p := range line.Points {
		x, y := c.x(p.X), c.y(p.Y)
		fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(k, 1)], x, y)
		label := fmt.Sprintf("%.3g", p.Y)
		if p.Name != "" {
			label = p.Name + ": " + label
		}
		fmt.Fprintf(out, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x, y, colour)
		fmt.Fprintf(out, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`+"\n",
			x, y+beside, html.EscapeString(label))
	}
	fmt.Fprintf(out, `<path d="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", &path, colour)
}

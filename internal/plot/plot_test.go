package plot

import (
	"bytes"
	"encoding/xml"
	"io"
	"slices"
	"strings"
	"testing"
)

// TestDrawing: the document is well-formed whatever is written in it, and each thing is where its value says.
func TestDrawing(t *testing.T) {
	d := Drawing{Width: 300, Height: 200, Note: "rates & times", Charts: []Chart{{
		Title: "time <us>", Left: 50, Top: 30, Width: 200, Height: 100,
		X: Axis{From: 1, To: 100, Log: true, Marks: []float64{10}}, Y: Linear(8),
		Lines: []Line{
			{Name: "A ./daemon -x '<y>'", Points: []Point{{X: 1, Y: 8}, {X: 10, Y: 4}, {X: 100, Y: 0, Name: "max"}}},
			{Name: "B", Points: []Point{{X: 10, Y: 2}}},
		},
	}}}
	var out bytes.Buffer
	if err := d.Write(&out); err != nil {
		t.Fatal(err)
	}
	var words []string
	for tokens := xml.NewDecoder(bytes.NewReader(out.Bytes())); ; {
		token, err := tokens.Token()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("%v:\n%s", err, &out)
		}
		if text, isText := token.(xml.CharData); isText {
			words = append(words, strings.TrimSpace(string(text)))
		}
	}
	for _, want := range []string{"time <us>", "rates & times", "A ./daemon -x '<y>'", "B", "max: 0", "8", "10"} {
		if !slices.Contains(words, want) {
			t.Errorf("%q is not written:\n%s", want, &out)
		}
	}
	for _, want := range []string{
		`d="M50.0 30.0L150.0 80.0L250.0 130.0"`, `cx="150.0" cy="105.0"`, `x="150.0" y="158"`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is missing:\n%s", want, &out)
		}
	}
}

func TestLinearAxisEndsAtARoundNumber(t *testing.T) {
	for high, want := range map[float64]int{1: 5, 8: 8, 10: 5, 0.13: 7, 41.57: 9, 199: 10, 0: 5} {
		a := Linear(high)
		if a.From != 0 || a.To < high || a.To != a.Marks[len(a.Marks)-1] || len(a.Marks)-1 != want {
			t.Errorf("up to %v: %+v, want %d steps", high, a, want)
		}
	}
}

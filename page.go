package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The page at /: the front panel, the verdict and the last events, made by the server, so that it is whole without a
// script. The script asks for it again every 2 s and puts the new one in place of the old.

//go:embed page.html
var pageHTML string

// pageEvents is how many events of all ports the page shows; of one port it shows all.
const pageEvents = 50

// panelBlock is how many ports make a block of the front panel, two rows of eight: two blocks fit beside each other on
// a telephone.
const panelBlock = 16

// pageParts is the page without its state, and the policy that lets a browser run nothing else.
type pageParts struct{ before, after, policy string }

// newPageParts cuts the page up.
func newPageParts() (p pageParts) {
	p.before, p.after, _ = strings.Cut(pageHTML, "{{main}}")
	hash := func(from, to string) string { // of what stands between two tags
		_, rest, _ := strings.Cut(pageHTML, from)
		text, _, _ := strings.Cut(rest, to)
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	p.policy = "default-src 'none'; connect-src 'self'; style-src " + hash("<style>", "</style>") + "; script-src " +
		hash("<script>", "</script>") + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return p
}

// servePage renders the page, of all ports or with the events of ?port=.
func (a *api) servePage(w http.ResponseWriter, r *http.Request) {
	now, asked := time.Now(), r.URL.Query().Get("port")
	ports := a.ports(now)
	known := slices.ContainsFunc(ports, func(p portAnswer) bool { return p.Port == asked })
	if asked != "" && !known && a.stranger([]string{asked}) != "" {
		http.Error(w, fmt.Sprintf("there is no port %q: / has all", asked), http.StatusNotFound)
		return
	}
	var of []string
	most := pageEvents
	if asked != "" {
		of, most = []string{asked}, 0
	}
	all, _ := a.events(of, cutoff{}, 0, most) // without a recorder there are none
	parts := newPageParts()
	status := a.status(now)
	var b bytes.Buffer
	b.WriteString(strings.Replace(parts.before, "{{title}}", "portsyncd: "+status.Verdict, 1))
	writeVerdict(&b, status)
	writePanel(&b, ports, asked)
	writeEvents(&b, all, asked)
	b.WriteString(parts.after)
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", parts.policy)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write(b.Bytes())
}

// writeVerdict says how the daemon and the switch are, and why.
func writeVerdict(b *bytes.Buffer, s *statusAnswer) {
	fmt.Fprintf(b, "<h1>portsyncd <span class=\"verdict %s\">%s</span></h1>\n", s.Verdict, s.Verdict)
	if len(s.Reasons) > 0 {
		b.WriteString("<ul>\n")
		for _, r := range s.Reasons {
			fmt.Fprintf(b, "<li><b>%s</b>: %s</li>\n", html.EscapeString(qualified(r.Namespace, r.Check)),
				html.EscapeString(r.Reason))
		}
		b.WriteString("</ul>\n")
	}
	c := s.Ports
	fmt.Fprintf(b, "<p class=\"dim\">%d ports configured, %d present: %d up, %d down, %d admin down, %d pending. ",
		c.Configured, c.Present, c.Up, c.Down, c.AdminDown, c.Pending)
	if !s.Standalone {
		fmt.Fprintf(b, "PortConfigDone %s, PortInitDone %s, databases %s. ", sentOrNot(s.PortConfigDone),
			sentOrNot(s.PortInitDone), map[bool]string{true: "answer", false: "do not answer"}[s.Databases.Connected])
	}
	fmt.Fprintf(b, "%d overruns, %d repairs. portsyncd %s, since %s.</p>\n", s.Overruns, s.Repairs,
		html.EscapeString(s.Version), s.Started)
	for i := range s.Instances {
		if i == 0 {
			b.WriteString("<h2>Instances</h2>\n<ul>\n")
		}
		fmt.Fprintf(b, "<li><b>%s</b>: %s</li>\n", html.EscapeString(s.Instances[i].Instance),
			html.EscapeString(s.Instances[i].says()))
	}
	if len(s.Instances) > 0 {
		b.WriteString("</ul>\n")
	}
	for i, w := range s.Worst {
		if i == 0 {
			b.WriteString("<h2>Ports to look at</h2>\n<ul>\n")
		}
		if i == 8 {
			fmt.Fprintf(b, "<li>and %d more</li>\n", len(s.Worst)-i)
			break
		}
		since := ""
		if w.Since != nil {
			since = ", since " + *w.Since
		}
		fmt.Fprintf(b, "<li><a href=\"?port=%s\">%s</a>%s: %s%s</li>\n", url.QueryEscape(w.Port),
			html.EscapeString(w.Port), html.EscapeString(inBrackets(w.Alias)), html.EscapeString(w.Detail), since)
	}
	if len(s.Worst) > 0 {
		b.WriteString("</ul>\n")
	}
}

func sentOrNot(sent bool) string {
	if sent {
		return "sent"
	}
	return "not sent"
}

// writePanel draws the front panel: Ethernet ports in two rows, what else there is behind them.
func writePanel(b *bytes.Buffer, ports []portAnswer, asked string) {
	b.WriteString("<h2>Front panel</h2>\n<nav class=\"panel\" aria-label=\"ports\">\n")
	var others []portAnswer
	n, namespace := 0, ""
	for i := range ports {
		if ports[i].Namespace != namespace { // each begins with its name
			if n > 0 {
				b.WriteString("</div>\n")
			}
			n, namespace = 0, ports[i].Namespace
			fmt.Fprintf(b, "<h3>%s</h3>\n", html.EscapeString(namespace))
		}
		if !strings.HasPrefix(ports[i].Port, "Ethernet") {
			others = append(others, ports[i])
			continue
		}
		if n%panelBlock == 0 {
			if n > 0 {
				b.WriteString("</div>\n")
			}
			b.WriteString("<div class=\"block\">\n")
		}
		n++
		label, class := strings.TrimPrefix(ports[i].Port, "Ethernet"), ""
		if len(label) > 3 {
			class = " long"
		}
		writeCell(b, &ports[i], label, class, asked)
	}
	if n > 0 {
		b.WriteString("</div>\n")
	}
	for i := range others {
		writeCell(b, &others[i], others[i].Port, " wide", asked)
	}
	b.WriteString("</nav>\n<p class=\"dim\">&#9679; up, &#10005; down, &#8211; admin down, &#8230; pending, " +
		"? no interface; a dashed frame: flapping. A port leads to its events.</p>\n")
}

// writeCell draws one port. Its state is a colour, a mark, and words.
func writeCell(b *bytes.Buffer, p *portAnswer, label, class, asked string) {
	state, mark, words := "gone", "?", "no interface"
	switch {
	case p.Pending:
		state, mark, words = "pending", "&#8230;", "pending"
	case !p.Present:
	case *p.Admin != "up":
		state, mark, words = "admin", "&#8211;", "admin down"
	case *p.Oper != "up":
		state, mark, words = "down", "&#10005;", "down"
	default:
		state, mark, words = "up", "&#9679;", "up"
	}
	if p.flapping {
		class, words = class+" flapping", words+", flapping"
	}
	current := ""
	if p.Port == asked {
		current = " aria-current=\"true\""
	}
	says := html.EscapeString(p.Port) + html.EscapeString(inBrackets(p.Alias)) + ": " + words
	fmt.Fprintf(b, "<a class=\"cell %s%s\" href=\"?port=%s\" title=\"%s\" aria-label=\"%s\"%s><b>%s</b>%s</a>\n",
		state, class, url.QueryEscape(p.Port), says, says, current, html.EscapeString(label), mark)
}

// writeEvents lists what happened, the newest first.
func writeEvents(b *bytes.Buffer, all []happened, asked string) {
	if asked == "" {
		b.WriteString("<h2 id=\"events\">Last events</h2>\n")
	} else {
		fmt.Fprintf(b, "<h2 id=\"events\">Events of %s <a href=\"?\">(all ports)</a></h2>\n", html.EscapeString(asked))
	}
	if len(all) == 0 {
		b.WriteString("<p>nothing is recorded</p>\n")
		return
	}
	b.WriteString("<div class=\"scroll\"><table>\n<tr><th>UTC</th><th>port</th><th>what</th><th>since then</th></tr>\n")
	for _, h := range slices.Backward(all) {
		fmt.Fprintf(b, "<tr><td>%s</td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
			h.Time.UTC().Format("01-02 15:04:05.000"), html.EscapeString(h.who()), html.EscapeString(h.What),
			html.EscapeString(h.state()))
	}
	b.WriteString("</table></div>\n")
}

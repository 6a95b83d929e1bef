package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"portsyncd/internal/switchtest"
)

// Each command of README.md and of the documents is run: here, by the test that a mark below its block names, or, marked as not tried, only its words are looked at: flags, targets of
// make, files. Marks are in italics right below a block: "*Run by `TestX`*", "*Not tried: why*".

// documents are what a reader takes commands from.
func documents(t *testing.T) (files []string) {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	must(t, err)
	return append(files, "README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/sonic/README.md")
}

// docBlock is a block of a document, between lines of three backticks.
type docBlock struct {
	file     string
	line     int
	language string // sh and console have tests of their own in two documents, text is what something printed
	text     string
	mark     string // in italics below it
}

var fencedBlock = regexp.MustCompile("(?ms)^ *```(\\w*)\n(.*?)^ *```\n(?:\n? *\\*([^*\n].*?)\\*\n)?")

func docBlocks(t *testing.T, file string) (blocks []docBlock) {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	for _, at := range fencedBlock.FindAllSubmatchIndex(text, -1) {
		b := docBlock{file: file, line: 1 + strings.Count(string(text[:at[0]]), "\n"), language: string(text[at[2]:at[3]]), text: string(text[at[4]:at[5]])}
		if at[6] >= 0 {
			b.mark = string(text[at[6]:at[7]])
		}
		blocks = append(blocks, b)
	}
	return blocks
}

// commands are the lines that somebody would type.
func (b *docBlock) commands() (lines []string) {
	for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "  #") // a comment
		typed, isTyped := strings.CutPrefix(line, "$ ")
		if b.language == "console" && !isTyped || line == "" {
			continue
		}
		lines = append(lines, strings.TrimSpace(typed))
	}
	return lines
}

// runElsewhere says that tests of their own run these, each as it stands.
func (b *docBlock) runElsewhere() bool {
	return b.language == "console" && b.file == "docs/troubleshooting.md" || // TestTroubleshooting
		b.language == "sh" && b.file == "docs/tls.md" || // TestTLSDocument
		b.language == "text" || b.language == "promql"
}

var testName = regexp.MustCompile(`\bTest[A-Z]\w+`)

// TestDocumentedNames: tests, files, targets and flags that a document names are there, and every block that is not run here has a mark.
func TestDocumentedNames(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	sources, err := filepath.Glob("*_test.go")
	must(t, err)
	for _, dir := range []string{"*", "vm/guest", "internal/*"} {
		more, err := filepath.Glob(dir + "/*_test.go")
		must(t, err)
		sources = append(sources, more...)
	}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		must(t, err)
		for _, name := range regexp.MustCompile(`(?m)^func (Test\w+)`).FindAllStringSubmatch(string(text), -1) {
			tests[name[1]] = true
		}
	}
	words := readWords(t)
	looked := 0
	for _, file := range documents(t) {
		text, err := os.ReadFile(file)
		must(t, err)
		for _, name := range testName.FindAllString(string(text), -1) {
			if !tests[name] && name != "TestKernel" { // which is several, in docs/vm.md
				t.Errorf("%s: there is no %s", file, name)
			}
		}
		for _, link := range regexp.MustCompile(`\]\(([^)#]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), link[1])); err != nil {
				t.Errorf("%s: a link leads nowhere: %v", file, err)
			}
		}
		for _, b := range docBlocks(t, file) {
			if b.language == "text" || b.language == "promql" {
				continue
			}
			for _, command := range b.commands() {
				looked++
				if err := words.check(command); err != nil {
					t.Errorf("%s:%d: %s: %v", file, b.line, command, err)
				}
			}
			if b.mark != "" && !strings.HasPrefix(b.mark, "Not tried") && testName.FindString(b.mark) == "" {
				t.Errorf("%s:%d: the mark names no test, and does not say that it is not tried: %s", file, b.line, b.mark)
			}
		}
		prose := fencedBlock.ReplaceAllString(string(text), "")
		for _, code := range regexp.MustCompile("`((?:portsyncd|make|go run) [^`]+)`").FindAllStringSubmatch(prose, -1) {
			looked++
			if err := words.check(strings.ReplaceAll(code[1], `\|`, "|")); err != nil {
				t.Errorf("%s: %s: %v", file, code[1], err)
			}
		}
	}
	if looked < 100 {
		t.Errorf("only %d commands were looked at", looked)
	}
}

// docWords is what commands may be made of.
type docWords struct {
	flags    map[string]string // what -help says, of the daemon under "", and of each command
	makefile string
	bench    string // switchbench's source
}

func readWords(t *testing.T) *docWords {
	t.Helper()
	w := &docWords{flags: map[string]string{}}
	for _, command := range []string{"", "status", "events", "diff", "handover"} {
		args := append(slices.Clone(daemonProgram(t)[1:]), strings.Fields(command)...)
		w.flags[command] = sh(t, daemonProgram(t)[0], append(args, "-help")...)
	}
	makefile, err := os.ReadFile("Makefile")
	must(t, err)
	w.makefile = string(makefile)
	sources, err := filepath.Glob("switchbench/*.go")
	must(t, err)
	for _, source := range sources {
		text, err := os.ReadFile(source)
		must(t, err)
		w.bench += string(text)
	}
	return w
}

// check looks at the words of a command line, and of those that it is a pipe or a sequence of.
func (w *docWords) check(line string) error {
	for _, command := range regexp.MustCompile(`&&|\|\|?|;|\$\(`).Split(line, -1) {
		fields := strings.Fields(command)
		if i := slices.IndexFunc(fields, func(f string) bool { return filepath.Base(f) == "portsyncd" && f != "restart" }); i >= 0 &&
			(i == 0 || slices.Contains(fields[:i], "exec")) {
			if err := w.portsyncd(fields[i+1:]); err != nil {
				return err
			}
		}
		if len(fields) < 2 {
			continue
		}
		switch {
		case fields[0] == "make":
			for _, word := range fields[1:] {
				name, _, isVariable := strings.Cut(word, "=")
				pattern := `(?m)^[\w -]*\b` + regexp.QuoteMeta(name) + `:|^\.PHONY:.* ` + regexp.QuoteMeta(name) + `( |$)`
				if isVariable {
					pattern = `(?m)^` + name + ` *[?:]?=|\$\(` + name + `\)|\$\(if \$\(` + name + `\)`
				}
				if strings.HasPrefix(word, "'") || strings.HasSuffix(word, "'") && !isVariable { // a value of several words
					continue
				}
				if name != "BROWSER" && !regexp.MustCompile(pattern).MatchString(w.makefile) {
					return fmt.Errorf("the Makefile has no %s", name)
				}
			}
		case fields[0] == "go" && fields[1] == "run" && strings.HasPrefix(fields[2], "./"):
			if _, err := os.Stat(fields[2]); err != nil {
				return err
			}
			for _, word := range fields[3:] {
				if name, isFlag := strings.CutPrefix(word, "-"); isFlag && fields[2] == "./switchbench" && !strings.Contains(w.bench, `"`+name+`"`) {
					return fmt.Errorf("switchbench has no flag %s", word)
				}
			}
		case strings.HasPrefix(fields[0], "deploy/"):
			if _, err := os.Stat(fields[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// portsyncd looks at the daemon's arguments, or a command's.
func (w *docWords) portsyncd(args []string) error {
	command := ""
	if len(args) > 0 && w.flags[args[0]] != "" {
		command, args = args[0], args[1:]
	}
	for _, word := range args {
		name, isFlag := strings.CutPrefix(strings.Trim(word, "[]"), "-")
		if name, _, _ = strings.Cut(name, "="); isFlag && name != "help" && !regexp.MustCompile(`(?m)^  -`+regexp.QuoteMeta(name)+`\b`).MatchString(w.flags[command]) {
			return fmt.Errorf("portsyncd %s has no flag %s", command, word)
		}
	}
	return nil
}

// docRun runs commands as they stand, on a switch: portsyncd is a script that says where that is.
type docRun struct {
	*testSwitch
	daemon *switchtest.Daemon
	path   string
	places *strings.Replacer
	others []*switchtest.Daemon
}

const docScript = `#!/bin/sh
case ${1:-} in
status | handover) command=$1 && shift && exec %[1]s $command -control.socket %[2]s/control.sock "$@" ;;
events) shift && exec %[1]s events -recorder.file %[2]s/recorder "$@" ;;
diff) shift && exec %[1]s diff -db.config %[3]s -netns %[4]s "$@" ;;
esac
exec %[1]s -db.config %[3]s -netns %[4]s -log.output stderr -control.socket %[2]s/control.sock -recorder.file %[2]s/recorder -web.listen-address '' "$@"
`

// begin has the daemon of the documents run.
func (r *docRun) begin() {
	r.daemon = r.testSwitch.daemon("-control.socket", filepath.Join(r.Dir, "control.sock"))
	r.waitFor("the daemon's answer", func() bool { return r.answers("control.sock") })
	r.places = strings.NewReplacer("/run/portsyncd/", r.Dir+"/", "http://switch:9090", "http://"+r.daemon.Metrics, "0.0.0.0:9091", "127.0.0.1:0", "0.0.0.0:9100", "127.0.0.1:0")
}

func (r *docRun) answers(socket string) bool {
	c, err := net.Dial("unix", filepath.Join(r.Dir, socket))
	if err == nil {
		c.Close()
	}
	return err == nil
}

// isDaemon says that a command goes on.
func isDaemon(command string) bool { return strings.HasPrefix(command, "portsyncd -") }

// run runs one command. A daemon goes on until the block ends; what goes on until it is interrupted is.
func (r *docRun) run(command string) error {
	line := r.places.Replace(command)
	if isDaemon(command) {
		args := strings.Fields(line)
		d, err := switchtest.StartProgram(filepath.Join(r.path, args[0]), args[1:]...)
		if err != nil {
			return err
		}
		r.others = append(r.others, d)
		socket := "control.sock"
		if i := slices.Index(args, "-control.socket"); i >= 0 {
			socket = filepath.Base(args[i+1])
		}
		if !eventually(func() bool { return r.answers(socket) }) {
			return fmt.Errorf("it does not answer:\n%s", d.Log())
		}
		return nil
	}
	if program, _, _ := strings.Cut(line, " "); program != "portsyncd" && program != "curl" {
		return fmt.Errorf("%s is not run on the machine of whoever tests: mark the block", program)
	}
	follows := strings.Contains(command, "-follow")
	if follows {
		line = "timeout -s INT 1 " + line
	}
	var out []byte
	var err error
	if !eventually(func() bool { // another portsyncd may still be about to be ready
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", line)
		cmd.Env = append(os.Environ(), "PATH="+r.path+":"+os.Getenv("PATH"))
		out, err = cmd.CombinedOutput()
		code := cmd.ProcessState.ExitCode()
		judges := strings.HasPrefix(command, "portsyncd status") || strings.HasPrefix(command, "portsyncd diff")
		return (err == nil || judges && code == exitNotWell || follows && code == 124) && len(out) > 0
	}) {
		return fmt.Errorf("%v: %s", err, out)
	}
	return nil
}

// TestDocumentedCommands runs every block that no mark and no test of its own excuses.
func TestDocumentedCommands(t *testing.T) {
	t.Parallel()
	r := &docRun{testSwitch: newSwitch(t, switchtest.Options{}), path: t.TempDir()}
	needTool(t, "curl")
	r.must(r.Configure(t.Context(), 8))
	orch := r.orchagent(true)
	program := strings.Join(daemonProgram(t), " ")
	r.must(os.WriteFile(filepath.Join(r.path, "portsyncd"), fmt.Appendf(nil, docScript, program, r.Dir, r.ConfigFile, r.NetNS), 0o755))
	r.begin()
	r.waitFor("PortInitDone", func() bool { return orch.Signal("PortInitDone") != nil })
	for _, p := range portNames(8) {
		r.waitEntry(p, fields("up", "up", 1500))
	}
	r.must(r.SetCable(false, "Ethernet12"))
	r.waitEntry("Ethernet12", fields("down", "up", 1500))
	n := 0
	for _, file := range documents(t) {
		for _, b := range docBlocks(t, file) {
			if b.runElsewhere() || b.mark != "" {
				continue
			}
			commands := b.commands()
			writes := slices.ContainsFunc(commands, func(c string) bool {
				return isDaemon(c) && !strings.Contains(c, "-observe") && !strings.Contains(c, "-standby") && !strings.Contains(c, "-standalone")
			})
			if writes { // one does
				r.daemon.Stop()
			}
			for _, command := range commands {
				n++
				if err := r.run(command); err != nil {
					t.Errorf("%s:%d: %s: %v", file, b.line, command, err)
				}
			}
			for _, d := range r.others {
				d.Stop()
			}
			if r.others = nil; writes {
				r.begin()
			}
		}
	}
	if t.Logf("%d commands", n); n < 15 {
		t.Errorf("only %d commands were run", n)
	}
}

// TestQuotedLogLines: what a document or an alert says is in the log can be found there.
func TestQuotedLogLines(t *testing.T) {
	var source strings.Builder
	files, err := filepath.Glob("*.go")
	must(t, err)
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			text, err := os.ReadFile(f)
			must(t, err)
			source.Write(regexp.MustCompile(`//.*`).ReplaceAll(text, nil))
		}
	}
	code := regexp.MustCompile(`" \+\s*"`).ReplaceAllString(source.String(), "")
	rules, err := os.ReadFile("deploy/prometheus/portsyncd.rules.yml")
	must(t, err)
	for _, q := range regexp.MustCompile(`log lines? ''([^']+)''|line ''([^']+)''`).FindAllStringSubmatch(string(rules), -1) {
		if line := q[1] + q[2]; !strings.Contains(code, line) {
			t.Errorf("portsyncd.rules.yml sends the operator to the log line %q, which there is not", line)
		}
	}
	doc, err := os.ReadFile("docs/tls.md")
	must(t, err)
	for _, q := range regexp.MustCompile("(?m)^\\| `([^`…]+) …").FindAllStringSubmatch(string(doc), -1) {
		if line := q[1]; !strings.HasPrefix(line, "-") && !strings.Contains(code, line) && !strings.Contains(line, "TLS client refused") {
			t.Errorf("docs/tls.md names the message %q, which there is not", line)
		}
	}
}

// TestManPageHasTheCommands: all that run knows.
func TestManPageHasTheCommands(t *testing.T) {
	page, err := os.ReadFile("deploy/debian/portsyncd.8")
	must(t, err)
	for _, command := range []string{"status", "diff", "events", "handover"} {
		if !strings.Contains(string(page), ".B portsyncd "+command+"\n") {
			t.Errorf("the man page does not tell of portsyncd %s", command)
		}
	}
	for _, word := range []string{`\-force`, "/api/v1/events"} {
		if !strings.Contains(string(page), word) {
			t.Errorf("the man page does not tell of %s", word)
		}
	}
}

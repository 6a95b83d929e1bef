package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// How the house is built, as DESIGN and CONTRIBUTING.md draw it: who owns what, and who may call whom. These tests read
// the daemon's source.

// house is the daemon's source with its types.
type house struct {
	set   *token.FileSet
	files []*ast.File
	info  types.Info
	pkg   *types.Package
}

// readHouse type-checks the daemon against what the compiler knows of the packages that it imports.
func readHouse(t *testing.T) *house {
	t.Helper()
	h := &house{set: token.NewFileSet(), info: types.Info{Uses: map[*ast.Ident]types.Object{},
		Selections: map[*ast.SelectorExpr]*types.Selection{}}}
	out, err := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", ".").Output()
	must(t, err)
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		exports[path] = file
	}
	names, err := filepath.Glob("*.go")
	must(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(h.set, name, nil, parser.ParseComments)
		must(t, err)
		h.files = append(h.files, file)
	}
	open := func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }
	config := types.Config{Importer: importer.ForCompiler(h.set, "gc", open)}
	h.pkg, err = config.Check("main", h.set, h.files, &h.info)
	must(t, err)
	return h
}

func (h *house) file(at token.Pos) string { return h.set.Position(at).Filename }

// rooms are the types that own a part of the syncer's state.
var rooms = []string{"start", "linkTable", "listing", "outbox", "comparison", "courier", "warmRestart", "readiness", "keyFilter", "divergence", "divergenceRow",
	"startRow", "linkRow", "outRow", "compareRow", "operLook", "operRow", "warmRow", "rows", "backoff", "pace", "attempt"}

// TestOnlyARoomsOwnFileTouchesItsFields: everybody else asks it.
func TestOnlyARoomsOwnFileTouchesItsFields(t *testing.T) {
	h := readHouse(t)
	owner := map[types.Object]string{}
	for _, room := range rooms {
		object := h.pkg.Scope().Lookup(room)
		if object == nil {
			t.Errorf("there is no type %s", room)
			continue
		}
		fields, _ := object.Type().Underlying().(*types.Struct)
		for i := range fields.NumFields() {
			owner[fields.Field(i)] = room
		}
	}
	touched := 0
	for use, selection := range h.info.Selections {
		field := selection.Obj()
		if v, isVar := field.(*types.Var); isVar {
			field = v.Origin()
		}
		room, owned := owner[field]
		if !owned {
			continue
		}
		touched++
		if home := h.file(field.Pos()); h.file(use.Pos()) != home {
			t.Errorf("%s touches %s.%s, which belongs to %s", h.set.Position(use.Pos()), room, field.Name(), home)
		}
	}
	if touched < 300 {
		t.Errorf("only %d uses of fields were looked at", touched)
	}
}

// needs is which files use what other files declare, with an example of each.
func (h *house) needs() map[string]map[string]string {
	needs := map[string]map[string]string{}
	for use, object := range h.info.Uses {
		if object.Pkg() != h.pkg || !object.Pos().IsValid() {
			continue
		}
		from, to := h.file(use.Pos()), h.file(object.Pos())
		if from == to {
			continue
		}
		if needs[from] == nil {
			needs[from] = map[string]string{}
		}
		if example := needs[from][to]; example == "" || object.Name() < example {
			needs[from][to] = object.Name()
		}
	}
	return needs
}

// TestNoTwoFilesNeedEachOther, not by way of others, either.
func TestNoTwoFilesNeedEachOther(t *testing.T) {
	needs := readHouse(t).needs()
	done := map[string]bool{}
	var path []string
	var visit func(file string)
	visit = func(file string) {
		if i := slices.Index(path, file); i >= 0 {
			var circle []string
			for j, from := range path[i:] {
				to := append(path[i:], file)[j+1]
				circle = append(circle, fmt.Sprintf("%s needs %s's %s", from, to, needs[from][to]))
			}
			t.Error(strings.Join(circle, ", "))
			return
		}
		if done[file] {
			return
		}
		path = append(path, file)
		for _, to := range slices.Sorted(maps.Keys(needs[file])) {
			visit(to)
		}
		path = path[:len(path)-1]
		done[file] = true
	}
	for _, file := range slices.Sorted(maps.Keys(needs)) {
		visit(file)
	}
	if len(needs) < 20 {
		t.Errorf("only %d files were looked at", len(needs))
	}
}

// Limits of what is pleasant to read.
const (
	fileLines    = 450
	functionLong = 80
	lineColumns  = 120 // a tab counts four
)

func TestFilesFunctionsAndLinesStayReadable(t *testing.T) {
	h := readHouse(t)
	for _, file := range h.files {
		name := h.file(file.Pos())
		text, err := os.ReadFile(name)
		must(t, err)
		if n := bytes.Count(text, []byte("\n")); n > fileLines {
			t.Errorf("%s has %d lines", name, n)
		}
		number := 0
		for line := range strings.Lines(string(text)) {
			number++
			if n := len([]rune(strings.ReplaceAll(strings.TrimSuffix(line, "\n"), "\t", "    "))); n > lineColumns &&
				name != "metrics.go" {
				t.Errorf("%s:%d has %d columns", name, number, n)
			}
		}
		for _, declaration := range file.Decls {
			f, isFunc := declaration.(*ast.FuncDecl)
			if !isFunc {
				continue
			}
			if n := h.set.Position(f.End()).Line - h.set.Position(f.Pos()).Line + 1; n > functionLong &&
				f.Name.Name != "newMetricSet" {
				t.Errorf("%s: %s has %d lines", name, f.Name.Name, n)
			}
		}
	}
}

// TestRulesAreWhereContributingSays: each function that the table of rules names exists in the file that it names.
func TestRulesAreWhereContributingSays(t *testing.T) {
	h := readHouse(t)
	declared := map[string]bool{}
	for _, file := range h.files {
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				declared[h.file(d.Pos())+" "+d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if v, isValue := spec.(*ast.ValueSpec); isValue {
						declared[h.file(v.Pos())+" "+v.Names[0].Name] = true
					}
				}
			}
		}
	}
	text, err := os.ReadFile("CONTRIBUTING.md")
	must(t, err)
	_, table, _ := strings.Cut(string(text), "| Rule of SONIC.md |")
	table, _, _ = strings.Cut(table, "\n\n")
	places := regexp.MustCompile("`(\\w+\\.go)` `(\\w+)`").FindAllStringSubmatch(table, -1)
	for _, place := range places {
		if !declared[place[1]+" "+place[2]] {
			t.Errorf("%s has no %s", place[1], place[2])
		}
	}
	if len(places) < 25 {
		t.Errorf("the table names only %d places", len(places))
	}
}

// TestStartTableIsDocumented: docs/start.md prints the table of transitions as it is in the code.
func TestStartTableIsDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/start.md")
	must(t, err)
	want := "| state | event | next state |\n| --- | --- | --- |\n"
	for _, step := range startTable {
		want += fmt.Sprintf("| %v | %v | %v |\n", step.from, step.on, step.to)
	}
	if !strings.Contains(string(text), want) {
		t.Errorf("docs/start.md lacks this table:\n%s", want)
	}
	for _, state := range startStates {
		if !strings.Contains(string(text), "**"+state+"**") {
			t.Errorf("docs/start.md does not explain %s", state)
		}
	}
}

package main

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// deploy/sonic/image on trees that have the lines it looks for, and more around them.

// imageTrees are files of a checkout before and after its programs were shared, and of a container that was rendered
// from each.
func imageTrees() map[string]map[string]string {
	const (
		dir  = "dockers/docker-orchagent/"
		jinj = "usr/share/sonic/templates/"
	)
	block := func(priority string) string {
		return "[program:rsyslogd]\ncommand=/usr/sbin/rsyslogd -n\n\n{% if not fabric %}\n[program:portsyncd]\ncommand=/usr/bin/portsyncd\n" +
			"priority=" + priority + "\nautostart=false\nstdout_logfile=NONE\n{% endif %}\n\n[program:orchagent]\n" +
			"command=/usr/bin/orchagent.sh\nstdout_capture_maxbytes=1MB\n"
	}
	const (
		watched  = "program:orchagent" // without a newline, as SONiC has it
		critical = "program:orchagent\nprogram:portsyncd\nprogram:portmgrd\n"
		scripts  = "# scripts\nsudo LANG=C cp $SCRIPTS_DIR/swss.sh $FILESYSTEM_ROOT/usr/local/bin/swss.sh\nsudo true\n"
	)
	before := map[string]string{
		dir + "Dockerfile.j2":                             "FROM base\nCOPY [\"arp.conf\", \"/etc/\"]\nCOPY [\"orchagent.sh\", \"buffermgrd.sh\", \"/usr/bin/\"]\n# end\n",
		dir + "supervisord.conf.j2":                       block("3"),
		dir + "watchdog_processes.j2":                     watched,
		dir + "critical_processes.j2":                     critical,
		"files/build_templates/sonic_debian_extension.j2": scripts,
		"files/image_config/other":                        "other\n",
	}
	shared := maps.Clone(before)
	shared[dir+"Dockerfile.j2"] = "FROM base\n{% include \"Dockerfile.common.j2\" %}\n"
	shared[dir+"Dockerfile.common.j2"] = "COPY {{ _from }}[\"orchagent.sh\", \"buffermgrd.sh\", \"/usr/bin/\"]\n"
	shared[dir+"supervisord.conf.j2"] = "{% include \"supervisord.conf.common.j2\" %}\n"
	shared[dir+"supervisord.conf.common.j2"] = block("{{ base + 3 }}")
	container := map[string]string{
		jinj + "supervisord.conf.j2":               block("3"),
		jinj + "watchdog_processes.j2":             watched,
		jinj + "critical_processes.j2":             critical,
		"etc/supervisor/conf.d/supervisord.conf":   block("3"),
		"etc/supervisor/watchdog_processes":        watched + "\n",
		"etc/supervisor/critical_processes":        critical,
		"usr/bin/portsyncd":                        "the C++ one",
		"usr/sbin/rsyslogd":                        "another",
		"usr/share/sonic/templates/docker-init.j2": "exec supervisord\n",
	}
	return map[string]map[string]string{"checkout": before, "newer checkout": shared, "container": container}
}

// plant makes a tree of files.
func plant(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640))
	}
	return dir
}

// harvest is what became of it.
func harvest(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[name] = string(text)
		return err
	}))
	return files
}

// added are the lines that a text has more than another.
func added(before, after string) (lines []string) {
	had := strings.Split(before, "\n")
	for _, line := range strings.Split(after, "\n") {
		if i := slices.Index(had, line); i >= 0 {
			had = slices.Delete(had, i, i+1)
		} else {
			lines = append(lines, line)
		}
	}
	return lines
}

func patchImage(args ...string) (string, error) {
	out, err := exec.Command("sh", append([]string{"deploy/sonic/image"}, args...)...).CombinedOutput()
	return string(out), err
}

// TestImagePatch: what deploy/sonic/image changes is what deploy/supervisord has, in each file; it is not done twice, and what revert leaves is what was there.
func TestImagePatch(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "portsyncd-linux-amd64")
	must(t, os.WriteFile(binary, []byte("the binary"), 0o644))
	block, err := os.ReadFile("deploy/supervisord/portsyncd.conf")
	must(t, err)
	readme, err := os.ReadFile("deploy/sonic/README.md")
	must(t, err)
	setting := func(name string) string { return regexp.MustCompile(`(?m)^` + name + `=.*$`).FindString(string(block)) }
	for name, files := range imageTrees() {
		dir := plant(t, files)
		if out, err := patchImage("apply", dir, binary); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		after := harvest(t, dir)
		for file, text := range after {
			lines := added(files[file], text)
			var want []string
			switch base := filepath.Base(file); {
			case text == files[file]:
				continue
			case strings.HasPrefix(base, "supervisord.conf"):
				want = []string{setting("command"), setting("stdout_capture_maxbytes")}
				if strings.Index(text, want[0]) < strings.Index(text, "[program:portsyncd]") || strings.Contains(text, "=/usr/bin/portsyncd") {
					t.Errorf("%s: %s became\n%s", name, file, text)
				}
			case strings.HasPrefix(base, "watchdog_processes"):
				lines, want = strings.Split(strings.TrimSuffix(text, "\n"), "\n"), []string{"program:orchagent", "program:portsyncd"}
			case strings.HasPrefix(base, "Dockerfile"):
				want = []string{map[bool]string{true: "COPY {{ _from }}", false: "COPY "}[strings.Contains(base, "common")] +
					`["portsyncd", "/usr/sbin/"]`}
			case base == "sonic_debian_extension.j2":
				want = []string{"sudo mkdir -p $FILESYSTEM_ROOT/usr/local/bin/debug-dump",
					"sudo install -m 755 $IMAGE_CONFIGS/portsyncd/debug-dump $FILESYSTEM_ROOT/usr/local/bin/debug-dump/portsyncd"}
			case base == "portsyncd" && text == "the binary", base == "debug-dump":
				continue
			}
			if !slices.Equal(lines, want) {
				t.Errorf("%s: %s has got %q, want %q", name, file, lines, want)
			}
			for _, line := range want {
				line = strings.Replace(line, "{{ _from }}", "", 1)
				if line != "program:orchagent" && !strings.Contains(string(readme), "`"+line+"`") {
					t.Errorf("deploy/sonic/README.md does not say what %q is for", line)
				}
			}
		}
		if out, err := patchImage("apply", dir, binary); err == nil || !maps.Equal(harvest(t, dir), after) {
			t.Errorf("%s: it is applied twice: %s", name, out)
		}
		if out, err := patchImage("revert", dir); err != nil || !maps.Equal(harvest(t, dir), files) {
			t.Errorf("%s: revert does not leave what was there: %v %s", name, err, out)
		}
		if out, err := patchImage("revert", dir); err == nil || !maps.Equal(harvest(t, dir), files) {
			t.Errorf("%s: it is reverted twice: %s", name, out)
		}
	}
}

// TestImagePatchOfAnotherTree: a tree that is not as expected stays as it is, and the file is named.
func TestImagePatchOfAnotherTree(t *testing.T) {
	t.Parallel()
	for name, files := range imageTrees() {
		for file, text := range files {
			other := maps.Clone(files)
			other[file] = strings.NewReplacer("command=/usr/bin/portsyncd", "command=/usr/bin/port_sync", "[program:portsyncd]", "[program:x]",
				"program:portsyncd\n", "", "orchagent.sh", "agent.sh", "/swss.sh", "/switch.sh").Replace(text)
			if strings.Contains(file, "watchdog") {
				other[file] = text + "\nprogram:portsyncd"
			}
			if other[file] == text || file == "etc/supervisor/critical_processes" { // nothing of it is looked at
				continue
			}
			dir := plant(t, other)
			out, err := patchImage("apply", dir, "LICENSE")
			if err == nil || !maps.Equal(harvest(t, dir), other) || !strings.Contains(out, filepath.Base(file)) {
				t.Errorf("%s with another %s: %v: %s", name, file, err, out)
			}
		}
	}
	for _, args := range [][]string{{}, {"apply"}, {"apply", "."}, {"revert"}, {"revert", "a", "b"}, {"apply", ".", "no-binary"},
		{"apply", "docs", "LICENSE"}} {
		if out, err := patchImage(args...); err == nil || out == "" {
			t.Errorf("image %q: %v %q", args, err, out)
		}
	}
}

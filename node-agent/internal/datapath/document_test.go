package datapath

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// docs/datapath.md names every program, map and mark of the sources, and its tables of hooks and maps nothing else.
func TestDocumentNamesEverything(t *testing.T) {
	raw, err := os.ReadFile("../../../docs/datapath.md")
	if err != nil {
		t.Fatal(err)
	}
	document := string(raw)
	programs, maps, marks := map[string]bool{}, map[string]bool{}, map[string]bool{}
	sections := 0
	for _, lines := range sourceLines(t) {
		source := strings.Join(lines, "\n")
		for expression, names := range map[string]map[string]bool{
			`(?m)^SEC\("(?:tc|xdp|cgroup/\w+|tp_btf/\w+)"\)\nint (?:BPF_PROG\()?(\w+)`: programs,
			`(?m)^\} (\w+) SEC\("\.maps"\);`:                                           maps,
			`(?m)^#define MARK_\w+ (0x[0-9a-f]+)$`:                                     marks,
		} {
			for _, m := range regexp.MustCompile(expression).FindAllStringSubmatch(source, -1) {
				names[m[1]] = true
			}
		}
		sections += len(regexp.MustCompile(`(?m)^SEC\("`).FindAllString(source, -1))
	}
	if len(programs) != sections || len(maps) < 40 || len(marks) < 4 {
		t.Fatalf("the sources are read wrongly: %d programs and %v, maps %v, marks %v", sections, programs, maps, marks)
	}
	// names in the first or second column of a table's rows.
	table := func(title string, column int) map[string]bool {
		_, section, found := strings.Cut(document, "\n"+title+"\n")
		if !found {
			t.Fatalf("docs/datapath.md has no section %q", title)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		out := map[string]bool{}
		for line := range strings.Lines(section) {
			if cells := strings.Split(line, "|"); len(cells) > column && strings.HasPrefix(line, "|") {
				for _, m := range regexp.MustCompile("`(\\w+)`").FindAllStringSubmatch(cells[column], -1) {
					out[m[1]] = true
				}
			}
		}
		return out
	}
	for title, compared := range map[string]struct {
		column int
		names  map[string]bool
	}{"## Hooks": {2, programs}, "## Maps": {1, maps}} {
		there := table(title, compared.column)
		for name := range compared.names {
			if !there[name] {
				t.Errorf("docs/datapath.md does not name %s in the table of %q", name, title)
			}
		}
		for name := range there {
			if !compared.names[name] {
				t.Errorf("docs/datapath.md names %s in the table of %q, which the sources do not have", name, title)
			}
		}
	}
	for mark := range marks {
		if !regexp.MustCompile(`(?m)^\| (mark \(mask )?` + mark + `\b`).MatchString(document) {
			t.Errorf("docs/datapath.md has no line about the mark %s", mark)
		}
	}
}

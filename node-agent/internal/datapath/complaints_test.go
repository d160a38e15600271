package datapath

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/complaints.md names tests, and after each group of them the package; they have to be there.
func TestComplaintsNameTestsThatExist(t *testing.T) {
	const root = "../../.."
	text, err := os.ReadFile(filepath.Join(root, "docs/complaints.md"))
	if err != nil {
		t.Fatal(err)
	}
	// By package and name.
	there := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err = filepath.WalkDir(filepath.Join(root, "node-agent"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, found := range declared.FindAllSubmatch(source, -1) {
			there[filepath.Base(filepath.Dir(path))+"."+string(found[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	group := regexp.MustCompile("((?:`Test\\w+`, )*`Test\\w+`)(?: \\((\\w+)\\))?")
	named := 0
	for _, found := range group.FindAllStringSubmatch(string(text), -1) {
		directory := found[2]
		if directory == "D" {
			directory = "datapath"
		}
		for _, name := range regexp.MustCompile(`Test\w+`).FindAllString(found[1], -1) {
			if named++; !there[directory+"."+name] {
				t.Errorf("docs/complaints.md names %s of package %q, which is no test", name, directory)
			}
		}
	}
	if named < 50 {
		t.Fatalf("only %d tests are named", named)
	}
}

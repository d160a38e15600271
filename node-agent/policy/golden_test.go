package policy

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// TestGolden parses every document of testdata and compares what is reported, and what the policy means, with the file
// beside it. Valid documents lie in valid, the others in invalid.
func TestGolden(t *testing.T) {
	for _, directory := range []string{"valid", "invalid"} {
		files, err := filepath.Glob(filepath.Join("testdata", directory, "*.*"))
		if err != nil {
			t.Fatal(err)
		}
		documents := 0
		for _, file := range files {
			if strings.HasSuffix(file, ".golden") {
				continue
			}
			documents++
			t.Run(directory+"/"+filepath.Base(file), func(t *testing.T) {
				document, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasSuffix(file, ".yaml") {
					if document, err = yaml.YAMLToJSONStrict(document); err != nil {
						t.Fatal(err)
					}
				}
				p, problems := Parse(KindAuto, document)
				if want := directory == "valid"; p.Valid() != want {
					t.Errorf("Valid() is %v; problems: %v", p.Valid(), problems)
				}
				for _, problem := range problems {
					if problem.What == "" || problem.Why == "" || problem.Fix == "" || problem.Code == "" {
						t.Errorf("problem lacks a text: %+v", problem)
					}
				}
				got := describePolicy(p)
				golden := strings.TrimSuffix(file, filepath.Ext(file)) + ".golden"
				if *update {
					if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if got != string(want) {
					t.Errorf("got\n%s\nwant (%s)\n%s", got, golden, want)
				}
			})
		}
		if documents == 0 {
			t.Errorf("no documents in testdata/%s", directory)
		}
	}
}

func describePolicy(p Policy) string {
	var b strings.Builder
	fmt.Fprintln(&b, p.Ref)
	for _, problem := range p.Problems {
		fmt.Fprintf(&b, "%s %s %s\n  why: %s\n  fix: %s\n", problem.Severity, problem.Code, problem, problem.Why, problem.Fix)
	}
	for _, sentence := range p.Meaning() {
		fmt.Fprintln(&b, sentence)
	}
	if prefixes := p.Prefixes(); len(prefixes) > 0 {
		fmt.Fprintln(&b, "prefixes:", prefixes)
	}
	return b.String()
}

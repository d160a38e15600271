package masqagent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRules(t *testing.T) {
	for _, test := range []struct {
		name, text string
		has, not   []string
		count      int
	}{
		{"nothing configured", "", []string{"10.0.0.0/8", "240.0.0.0/4", "169.254.0.0/16", "fe80::/10"}, nil, 13},
		{"own ranges replace the defaults", "nonMasqueradeCIDRs: [192.0.2.0/24, 2001:db8::/32]", []string{"192.0.2.0/24", "2001:db8::/32", "169.254.0.0/16"}, []string{"10.0.0.0/8"}, 4},
		{"link-local is masqueraded", "masqLinkLocal: true\nmasqLinkLocalIPv6: true", []string{"10.0.0.0/8"}, []string{"169.254.0.0/16", "fe80::/10"}, 11},
		{"JSON, as the upstream ConfigMap may have it", `{"nonMasqueradeCIDRs":["10.1.2.3/16"],"masqLinkLocal":true}`, []string{"10.1.0.0/16", "fe80::/10"}, []string{"169.254.0.0/16"}, 2},
		{"twice is once", "nonMasqueradeCIDRs: [10.0.0.0/8, 10.9.9.9/8]\nmasqLinkLocal: true\nmasqLinkLocalIPv6: true", []string{"10.0.0.0/8"}, nil, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Parse([]byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Prefixes()
			if err != nil {
				t.Fatal(err)
			}
			var texts []string
			for _, p := range got {
				texts = append(texts, p.String())
			}
			for _, want := range test.has {
				if !slices.Contains(texts, want) {
					t.Errorf("%s is not in %v", want, texts)
				}
			}
			for _, unwanted := range test.not {
				if slices.Contains(texts, unwanted) {
					t.Errorf("%s is in %v", unwanted, texts)
				}
			}
			if len(texts) != test.count {
				t.Errorf("%d ranges, want %d: %v", len(texts), test.count, texts)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"nonMasqueradeCIDRs: [10.0.0.0/33]": "10.0.0.0/33",
		"nonMasqueradeCIDRs: [10.0.0.1]":    "10.0.0.1",
		"nonMasqueradeCidrs: [10.0.0.0/8]":  "nonMasqueradeCidrs",
		"masqLinkLocal: sometimes":          "masqLinkLocal",
		"a: b: c":                           "ip-masq-agent",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error about %s", text, err, want)
		}
	}
}

func TestWatchSeesChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules")
	seen := make(chan string, 10)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		Watch(ctx, path, time.Millisecond, func(text []byte, err error) { seen <- fmt.Sprintf("%s %v", text, err) })
		close(done)
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-seen:
			if !strings.HasPrefix(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("nothing seen, want %q", want)
		}
	}
	replace := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	expect(" <nil>")
	replace("one")
	expect("one <nil>")
	replace("two")
	expect("two <nil>")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect(" <nil>")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	expect(" read ")
	stop()
	<-done
	if len(seen) > 0 {
		t.Errorf("told again of the same: %q", <-seen)
	}
}

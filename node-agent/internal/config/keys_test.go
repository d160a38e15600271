package config

import (
	"os"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The console's tests hold its values against this file; FAIRLEAD_UPDATE=1 writes it anew.
func TestKeysAreWhatTheConsoleIsTold(t *testing.T) {
	const path = "testdata/keys.txt"
	keys := strings.Join(Keys(), "\n") + "\n"
	if os.Getenv("FAIRLEAD_UPDATE") == "1" {
		if err := os.WriteFile(path, []byte(keys), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != keys {
		t.Fatalf("%s is not what the agent knows (%v). Run FAIRLEAD_UPDATE=1 go test ./internal/config, and give contract/values.ts a line for every new key.", path, err)
	}
}

func TestKeysAreWhatParsingTakes(t *testing.T) {
	keys := Keys()
	for _, want := range []string{"routingMode", "bpf.masquerade", "cluster.name", "devices", "hubble.eventBufferCapacity"} {
		if !slices.Contains(keys, want) {
			t.Errorf("%s is missing in %v", want, keys)
		}
	}
	for _, key := range keys {
		// null has every type: what is complained of is the name alone.
		tree := map[string]any{}
		at, parts := tree, strings.Split(key, ".")
		for _, part := range parts[:len(parts)-1] {
			inner := map[string]any{}
			at[part], at = inner, inner
		}
		at[parts[len(parts)-1]] = nil
		text, err := yaml.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(text); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}

package config

import (
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

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

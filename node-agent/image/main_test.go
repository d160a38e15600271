package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestArchiveIsDeterministicAndComplete(t *testing.T) {
	directory := t.TempDir()
	binary := filepath.Join(directory, "fairlead-agent")
	if err := os.WriteFile(binary, []byte("not really a program"), 0o755); err != nil {
		t.Fatal(err)
	}
	one, two := filepath.Join(directory, "1.tar"), filepath.Join(directory, "2.tar")
	first, err := build(binary, "fairlead.dev/fairlead-agent:test", "amd64", one)
	if err != nil {
		t.Fatal(err)
	}
	second, err := build(binary, "fairlead.dev/fairlead-agent:test", "amd64", two)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(one)
	b, _ := os.ReadFile(two)
	if first != second || !bytes.Equal(a, b) {
		t.Fatalf("two builds of one binary differ: %s and %s", first, second)
	}

	files := map[string][]byte{}
	reader := tar.NewReader(bytes.NewReader(a))
	for {
		header, err := reader.Next()
		if err != nil {
			break
		}
		content := make([]byte, header.Size)
		if _, err := reader.Read(content); err != nil && err.Error() != "EOF" {
			t.Fatal(err)
		}
		files[header.Name] = content
	}
	var index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
		}
	}
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	// One image under two names: its version's, and the one by content that the installer asks the kubelets for.
	want := []string{"fairlead.dev/fairlead-agent:test", "fairlead.dev/fairlead-agent:sha256-" + first[len("sha256:"):][:16]}
	for i, name := range want {
		if len(index.Manifests) != len(want) || index.Manifests[i].Digest != first || index.Manifests[i].Annotations["io.containerd.image.name"] != name {
			t.Fatalf("index names %+v, not %s as %v", index.Manifests, first, want)
		}
	}
	var manifest struct {
		Config struct{ Digest string }
		Layers []struct {
			Digest string
			Size   int
		}
	}
	if err := json.Unmarshal(files["blobs/sha256/"+first[7:]], &manifest); err != nil {
		t.Fatal(err)
	}
	for _, digest := range []string{manifest.Config.Digest, manifest.Layers[0].Digest} {
		content, ok := files["blobs/sha256/"+digest[7:]]
		if !ok || digestOf(content) != digest {
			t.Errorf("blob %s is missing or is another", digest)
		}
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	if _, err := build("", "x", "amd64", "y"); err == nil {
		t.Error("no binary was accepted")
	}
	if _, err := build(filepath.Join(t.TempDir(), "none"), "x", "amd64", "y"); err == nil {
		t.Error("a binary that is not there was accepted")
	}
}

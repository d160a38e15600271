// image packs one static binary into an OCI image archive, without docker: one layer, nothing but the binary and the
// directories that mounts need. The archive is deterministic: equal binaries give equal digests.
//
//	go run ./image -binary dist/fairlead-agent -name fairlead.dev/fairlead-agent:0.1.0 -o dist/fairlead-agent.tar
//
// It prints the manifest's digest. `ctr -n k8s.io images import FILE` and `skopeo copy oci-archive:FILE …` read it.
// Format: https://github.com/opencontainers/image-spec (image layout, version 1.0.0).
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"strings"

	agentconfig "fairlead.dev/node-agent/internal/config"
)

// directories that the DaemonSet mounts onto, and /tmp.
var directories = []string{"etc", "etc/fairlead", "host", "proc", "run", "sys", "tmp", "var", "var/lib", "var/lib/fairlead", "var/run"}

func main() {
	binary := flag.String("binary", "", "the static binary")
	name := flag.String("name", "", "name and tag of the image")
	out := flag.String("o", "", "archive to write")
	arch := flag.String("arch", runtime.GOARCH, "architecture of the binary, as Go names it")
	flag.Parse()
	digest, err := build(*binary, *name, *arch, *out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Println(digest)
}

// build writes the archive and returns the manifest's digest, "sha256:...".
func build(binary, name, arch, out string) (string, error) {
	if binary == "" || name == "" || out == "" {
		return "", fmt.Errorf("-binary, -name and -o are needed")
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return "", fmt.Errorf("reading the binary: %w", err)
	}
	layer, err := layerOf(path.Base(binary), content)
	if err != nil {
		return "", err
	}
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return "", fmt.Errorf("compressing: %w", err)
	}
	if _, err := zip.Write(layer); err != nil {
		return "", fmt.Errorf("compressing: %w", err)
	}
	if err := zip.Close(); err != nil {
		return "", fmt.Errorf("compressing: %w", err)
	}

	config := encode(map[string]any{
		"architecture": arch, "os": "linux",
		"config":  map[string]any{"Entrypoint": []string{"/" + path.Base(binary)}, "Env": []string{"PATH=/"}},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{digestOf(layer)}},
		"history": []any{map[string]any{"created_by": "fairlead image"}},
	})
	manifest := encode(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers": []any{descriptor("application/vnd.oci.image.layer.v1.tar+gzip", packed.Bytes())},
	})
	entry := descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
	entry["platform"] = map[string]string{"architecture": arch, "os": "linux"}
	// The installer refuses values that this agent would refuse, before it has changed anything.
	entry["annotations"] = map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name,
		"dev.fairlead.values": strings.Join(agentconfig.Keys(), ",")}
	// The installer asks the kubelets for a name by content; whoever loads the archive by hand gets it as well.
	pinned := maps.Clone(entry)
	byDigest := byContent(name, digestOf(manifest))
	pinned["annotations"] = map[string]string{"io.containerd.image.name": byDigest, "org.opencontainers.image.ref.name": byDigest}
	index := encode(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []any{entry, pinned}})

	archive, err := tarOf([]file{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", index},
		{blob(manifest), manifest},
		{blob(config), config},
		{blob(packed.Bytes()), packed.Bytes()},
	})
	if err != nil {
		return "", err
	}
	unfinished := out + ".unfinished"
	if err := os.WriteFile(unfinished, archive, 0o644); err != nil {
		return "", fmt.Errorf("writing the archive: %w", err)
	}
	if err := os.Rename(unfinished, out); err != nil {
		return "", fmt.Errorf("writing the archive: %w", err)
	}
	return digestOf(manifest), nil
}

// layerOf is the image's only layer: the directories, and the binary at the root.
func layerOf(name string, content []byte) ([]byte, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, directory := range directories {
		mode := int64(0o755)
		if directory == "tmp" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: directory + "/", Mode: mode}); err != nil {
			return nil, fmt.Errorf("packing %s: %w", directory, err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		return nil, fmt.Errorf("packing %s: %w", name, err)
	}
	if _, err := w.Write(content); err != nil {
		return nil, fmt.Errorf("packing %s: %w", name, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("packing %s: %w", name, err)
	}
	return buffer.Bytes(), nil
}

type file struct {
	name    string
	content []byte
}

func tarOf(files []file) ([]byte, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.name, err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("packing %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("packing: %w", err)
	}
	return buffer.Bytes(), nil
}

// byContent is the name under which the installer knows an image: its repository, tagged with the manifest's digest.
func byContent(name, digest string) string {
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		name = name[:at]
	}
	return name + ":sha256-" + strings.TrimPrefix(digest, "sha256:")[:16]
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func blob(content []byte) string { return "blobs/sha256/" + digestOf(content)[len("sha256:"):] }

func descriptor(mediaType string, content []byte) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": digestOf(content), "size": len(content)}
}

// encode writes a value that is made of strings, numbers, maps and lists only, and so cannot fail.
func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}

#!/bin/sh
# Generates what is derived from the Go types of api/ciliumio and policy/spec: deep copies and the manifests of the custom
# resource definitions. With an argument, everything is written below that directory instead of in place.
set -eu
cd "$(dirname "$0")"
out=${1:-.}
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT

# controller-gen has its own module, so that its dependencies stay out of the agent's.
(cd tools && go build -o "$bin/controller-gen" sigs.k8s.io/controller-tools/cmd/controller-gen)

for package in policy/spec api/ciliumio/v2 api/ciliumio/v2alpha1; do
	mkdir -p "$out/$package"
	"$bin/controller-gen" object paths="./$package" output:object:dir="$out/$package"
done
mkdir -p "$out/api/crds"
rm -f "$out"/api/crds/*.yaml
"$bin/controller-gen" crd:crdVersions=v1 paths=./api/ciliumio/... output:crd:dir="$out/api/crds"

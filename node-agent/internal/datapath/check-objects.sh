#!/bin/sh
# Fails when the committed objects are not those that the sources in bpf/ compile to.
# Needs the compiler that bpf/build.sh names; set FIX=1 to replace the objects.
set -eu
cd "$(dirname "$0")"
fresh=$(mktemp -d)
trap 'rm -r "$fresh"' EXIT
../../../bpf/build.sh "$fresh"
stale=0
for object in "$fresh"/*.o; do
	if ! cmp -s "$object" "objects/$(basename "$object")"; then
		echo "stale: objects/$(basename "$object")" >&2
		stale=1
	fi
done
[ -z "${FIX:-}" ] || { cp "$fresh"/*.o objects/; exit 0; }
[ "$stale" = 0 ] || { echo "Run FIX=1 $0 and commit the objects." >&2; exit 1; }

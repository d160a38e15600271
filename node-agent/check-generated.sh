#!/bin/sh
# Fails, and shows the difference, where generated files do not match the types that they are generated from.
set -eu
cd "$(dirname "$0")"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
./generate.sh "$fresh"
status=0
for file in $(cd "$fresh" && find . -type f) $(find api/crds -name '*.yaml') $(find api/ciliumio policy/spec -name 'zz_generated*'); do
	diff -u "$file" "$fresh/$file" || status=1
done
if [ $status -ne 0 ]; then
	echo 'generated files are stale: run node-agent/generate.sh and commit the result' >&2
fi
exit $status

#!/bin/sh
# Compiles the BPF programs. Usage: bpf/build.sh [OUTPUT DIRECTORY]
# Compiler: clang 14 and libbpf-dev of Debian 12; set CLANG for another.
set -eu
cd "$(dirname "$0")"
out=${1:-../node-agent/internal/datapath/objects}
mkdir -p "$out"
for source in *.bpf.c; do
	"${CLANG:-clang}" -g -O2 -Wall -Wextra -Werror -Wno-unused-function -Wno-unused-parameter -target bpf -mcpu=v3 \
		-fdebug-prefix-map="$PWD"=bpf -I"/usr/include/$(uname -m)-linux-gnu" \
		-c "$source" -o "$out/${source%.bpf.c}.o"
	"${STRIP:-llvm-strip}" -g "$out/${source%.bpf.c}.o"
done

# shellcheck shell=bash
# Building, cached by content. An artefact is a directory
# $CACHE/NAME/HASH, where HASH covers all that it is made from; it is built in a
# temporary directory and renamed, so that it is there whole or not at all.

KUBERNETES=v1.34.4

# hash_of WORDS...: from strings and the files below directories given as @DIR
hash_of() {
	local w
	for w; do
		case $w in
		@*) (cd "${w#@}" && find . -type f ! -name '*_test.go' -print0 | sort -z | xargs -0 sha256sum) ;;
		*) printf '%s\n' "$w" ;;
		esac
	done | sha256sum | cut -c1-16
}

# artefact NAME HASH FUNCTION: build unless it is there; ARTEFACT is its
# directory then. FUNCTION is called with the directory to fill.
artefact() {
	local name=$1 hash=$2 make=$3
	ARTEFACT=$CACHE/$name/$hash
	[ ! -d "$ARTEFACT" ] || return 0
	mkdir -p "$CACHE/$name"
	exec 8>"$CACHE/$name/.lock"
	flock 8
	if [ ! -d "$ARTEFACT" ]; then
		local temp t=$EPOCHREALTIME
		rm -rf "$CACHE/$name"/.new.* # of a build that was cut off: the lock is ours
		temp=$(mktemp -d "$CACHE/$name/.new.XXXXXX"); chmod 755 "$temp"
		say "building $name"
		# Another process of this program, which ends with this one: a build that
		# nobody waits for would go on beside the next.
		export HYPERKUBE AGNHOST COREDNS KUBETOOLS TOOLS STARWARS IMAGES CONFORMANCE
		setpriv --pdeathsig KILL "$SELF" _make "$make" "$temp" 8>&- 9>&- >"$CACHE/$name/build.log" 2>&1 ||
			die "$name could not be built." "$(tail -n 3 "$CACHE/$name/build.log")" "See $CACHE/$name/build.log"
		mv -T "$temp" "$ARTEFACT"
		say "built $name in $(since "$t")"
		prune "$name"
	fi
	exec 8>&-
}

# prune NAME: keep the three newest, and whatever a lab uses
prune() {
	local d
	# shellcheck disable=SC2012 # names are hashes
	ls -td "$CACHE/$1"/*/ 2>/dev/null | tail -n +4 | while read -r d; do
		grep -qsF "${d%/}" "$RUN/settings" || rm -rf "$d"
	done
}

# go_build DIR ARGS...: in a module, static; ends with the lab command that started it
go_build() {
	local dir=$1; shift
	(cd "$dir" && GOFLAGS='-buildvcs=false -mod=readonly' CGO_ENABLED=0 GOWORK=off exec setpriv --pdeathsig KILL nice -n 5 go build -trimpath "$@")
}

make_hyperkube() {
	local flags="-s -w" package c minor=${KUBERNETES#v1.}
	# A version comes from the linker, or the binaries call themselves v0.0.0-master.
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags="$flags -X $package.gitVersion=$KUBERNETES -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*} -X $package.gitTreeState=clean -X $package.gitCommit=lab -X $package.buildDate=2026-01-01T00:00:00Z"
	done
	go_build "$LAB/kube" -ldflags "$flags" -o "$1/hyperkube" .
	for c in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do ln -s hyperkube "$1/$c"; done
}
make_agnhost() { go_build "$LAB/kube" -ldflags "-s -w" -o "$1/agnhost" k8s.io/kubernetes/test/images/agnhost; }
make_kubetools() {
	go_build "$LAB/kube" -ldflags "-s -w" -o "$1/mkimage" ./mkimage
	go_build "$LAB/kube" -ldflags "-s -w" -o "$1/pause" ./pause
	go_build "$LAB/kube" -ldflags "-s -w" -o "$1/runcrig" ./runcrig
}
make_coredns() { go_build "$LAB/coredns" -ldflags "-s -w" -o "$1/coredns" .; }
make_tools() { local p; for p in gate pki outside traffic; do go_build "$LAB" -ldflags "-s -w" -o "$1/$p" "./$p"; done; }
make_starwars() { go_build "$LAB" -ldflags "-s -w" -o "$1/starwars" ./starwars; }

# build_all: set HYPERKUBE, AGNHOST, COREDNS, KUBETOOLS, TOOLS, STARWARS and
# TEMPLATE to directories that hold them, building what is not there.
build_all() {
	install_deps
	command -v go >/dev/null || die "Go is missing." "The lab builds Kubernetes and its images from source." "Install Go 1.26 or newer from https://go.dev/dl and put it on PATH."
	local go h; go=$(go env GOVERSION GOARCH | tr '\n' ' ')
	artefact tools "$(hash_of "$go" "$(cat "$LAB/go.mod")" "@$LAB/gate" "@$LAB/pki" "@$LAB/outside" "@$LAB/traffic")" make_tools; TOOLS=$ARTEFACT
	h=$(hash_of "$go" "$(cat "$LAB/kube/go.mod" "$LAB/kube/go.sum")")
	artefact hyperkube "$(hash_of "$h" "$KUBERNETES" "$(cat "$LAB/kube/main.go")" "$(declare -f make_hyperkube)")" make_hyperkube; HYPERKUBE=$ARTEFACT
	artefact agnhost "$h" make_agnhost; AGNHOST=$ARTEFACT
	artefact kubetools "$(hash_of "$go" "@$LAB/kube/mkimage" "@$LAB/kube/pause" "@$LAB/kube/runcrig")" make_kubetools; KUBETOOLS=$ARTEFACT
	artefact coredns "$(hash_of "$go" "@$LAB/coredns")" make_coredns; COREDNS=$ARTEFACT
	artefact starwars "$(hash_of "$go" "$(cat "$LAB/go.mod")" "@$LAB/starwars")" make_starwars; STARWARS=$ARTEFACT
	build_images
}

# shellcheck shell=bash
# Kubernetes' own end-to-end suite and the images that it starts, under the
# names by which it asks for them. Nothing can be pulled in the lab, so each is
# made here: agnhost from the Kubernetes module with the same programs beside it
# as upstream's image has, from the system's packages.

# Programs of agnhost's image (its Dockerfile names them), and their packages.
AGNHOST_TOOLS="dig getent curl wget nc ip ss iperf bash conntrack dash"
AGNHOST_PACKAGES="dash libc-bin wget bind9-dnsutils curl netcat-openbsd iproute2 iperf bash conntrack libc6 busybox-static"

# What the suite calls its images; a name that it does not have is an error.
E2E=registry.k8s.io/e2e-test-images
E2E_AGNHOST=$E2E/agnhost:2.56
E2E_DNSUTILS=$E2E/jessie-dnsutils:1.7
E2E_BUSYBOX=$E2E/busybox:1.37.0-1
E2E_NGINX=$E2E/nginx:1.14-4
E2E_REGRESSION=$E2E/regression-issue-74839:1.2
E2E_PAUSE=registry.k8s.io/pause:3.10.1

make_conformance() {
	go_build "$LAB/conformance" -ldflags "-s -w" -o "$1/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
	go_build "$LAB/conformance" -ldflags "-s -w" -o "$1/regression" k8s.io/kubernetes/test/images/regression-issue-74839
	(cd "$LAB/conformance" && GOFLAGS='-buildvcs=false -mod=readonly' CGO_ENABLED=0 GOWORK=off exec setpriv --pdeathsig KILL \
		nice -n 5 go test -vet=off -c -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$KUBERNETES" -o "$1/e2e.test" .)
	(cd "$LAB/conformance" && go list -mod=readonly -m -f '{{.Dir}}' k8s.io/kubernetes) > "$1/module"
}

make_conformance_images() {
	local images name
	images=$("$CONFORMANCE/e2e.test" --list-images) || return 1
	for name in "$E2E_AGNHOST" "$E2E_DNSUTILS" "$E2E_BUSYBOX" "$E2E_NGINX" "$E2E_REGRESSION" "$E2E_PAUSE"; do
		grep -qxF "$name" <<<"$images" || { echo "the suite has no image $name; it has:"; echo "$images"; return 1; }
	done
	local p d=$LAB/images/netshoot porter applets=() files=()
	porter=$(cat "$CONFORMANCE/module")/test/images/agnhost/porter
	local -A had
	# shellcheck disable=SC2086 # a list of words
	with_libraries files had $AGNHOST_TOOLS
	# Debian's busybox, as a shell, prefers its own nc to the one on PATH; its wget crashes with -T.
	files+=("$(readlink -f "$(command -v busybox)"):/bin/busybox" "/usr/bin/dash->:/bin/sh")
	applets=("$(readlink -f "$(command -v busybox)"):/bin/busybox")
	for p in $APPLETS; do
		applets+=("busybox->:/bin/$p")
		[[ " sh $AGNHOST_TOOLS " = *" $p "* ]] || files+=("busybox->:/bin/$p")
	done
	for p in passwd group nsswitch.conf; do applets+=("$d/$p:/etc/$p:644"); files+=("$d/$p:/etc/$p:644"); done
	files+=("$LAB/images/agnhost/wgetrc:/etc/wgetrc:644" "$AGNHOST/agnhost:/agnhost" "agnhost->:/agnhost-2" "$COREDNS/coredns:/coredns"
		"$porter/localhost.crt:/localhost.crt:644" "$porter/localhost.key:/localhost.key:644" "$d/passwd:/uploads/.keep:644")
	mkimage -ref "$E2E_AGNHOST" -o "$1/agnhost.tar" -entrypoint /agnhost -arg pause "${files[@]}"
	mkimage -ref "$E2E_DNSUTILS" -o "$1/dnsutils.tar" -entrypoint /bin/sh "${files[@]}"
	mkimage -ref "$E2E_BUSYBOX" -o "$1/busybox.tar" -entrypoint /bin/sh "${applets[@]}"
	# The tests look at this pod's endpoints, never at who answers: a web server is what it takes.
	mkimage -ref "$E2E_NGINX" -o "$1/nginx.tar" -entrypoint /agnhost -arg test-webserver "$AGNHOST/agnhost:/agnhost"
	mkimage -ref "$E2E_REGRESSION" -o "$1/regression.tar" -entrypoint /regression "$CONFORMANCE/regression:/regression"
	mkimage -ref "$E2E_PAUSE" -o "$1/pause.tar" -entrypoint /pause "$KUBETOOLS/pause:/pause"
}

# conformance: build the suite and its images, and print where they are
conformance() {
	DEPS="$DEPS /usr/bin/dig:bind9-dnsutils nc:netcat-openbsd iperf:iperf wget:wget"
	build_all
	artefact conformance "$(hash_of "$(go env GOVERSION GOARCH)" "$KUBERNETES" "$(cat "$LAB"/conformance/{go.mod,go.sum,suite_test.go})" "$(declare -f make_conformance)")" make_conformance
	export CONFORMANCE=$ARTEFACT
	# shellcheck disable=SC2086 # a list of words
	artefact conformance-images "$(hash_of "$CONFORMANCE" "$AGNHOST" "$COREDNS" "$KUBETOOLS" "$AGNHOST_TOOLS" "$APPLETS" \
		"$(dpkg-query -W -f '${Package}=${Version} ' $AGNHOST_PACKAGES 2>/dev/null)" "$(cat "$LAB"/images/{netshoot,agnhost}/*)" \
		"$(declare -f make_conformance_images with_libraries)" "$(declare -p ${!E2E*})")" make_conformance_images
	printf '{"suite":"%s","images":"%s","kubectl":"%s","kubernetes":"%s"}\n' "$CONFORMANCE" "$ARTEFACT" "$HYPERKUBE/kubectl" "$KUBERNETES"
}

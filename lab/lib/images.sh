# shellcheck shell=bash
# Images, each a one-layer archive made from files, and a containerd store that
# already holds them, so that starting a node imports nothing.

# Programs of the netshoot image, from the system's own packages.
NETSHOOT="ping curl tcpdump ip ss bridge ethtool conntrack nft"
NETSHOOT_PACKAGES="iputils-ping curl tcpdump iproute2 ethtool conntrack nftables libc6"
APPLETS="sh ash cat ls cp mv rm mkdir ln echo printf sleep true false env id ps kill head tail grep sed awk cut sort uniq wc tr tee
test seq date timeout time watch hostname nslookup nc wget traceroute telnet netstat route arp ifconfig arping vi less find xargs
mount umount df du stat readlink dirname basename sha256sum base64 hexdump od dd sync uname whoami top pidof tar gzip gunzip"

mkimage() { "$KUBETOOLS/mkimage" "$@"; }

image_pause() { mkimage -ref fairlead.lab/pause:1 -o "$1/image.tar" -entrypoint /pause "$KUBETOOLS/pause:/pause"; }
image_agnhost() { mkimage -ref fairlead.lab/agnhost:1 -o "$1/image.tar" -entrypoint /agnhost -arg pause "$AGNHOST/agnhost:/agnhost"; }
image_coredns() { mkimage -ref fairlead.lab/coredns:1 -o "$1/image.tar" -entrypoint /coredns "$COREDNS/coredns:/coredns"; }
image_starwars() { mkimage -ref fairlead.lab/starwars:1 -o "$1/image.tar" -entrypoint /starwars -arg serve "$STARWARS/starwars:/starwars"; }
image_traffic() { mkimage -ref fairlead.lab/traffic:1 -o "$1/image.tar" -entrypoint /traffic "$TOOLS/traffic:/traffic"; }

# with_libraries LIST HAD PROGRAM...: to the array LIST (by name) add programs, with
# the libraries that the loader finds for them at the same paths, each file once
# (HAD: an associative array by name)
with_libraries() {
	local -n list=$1 seen=$2; shift 2
	local p f
	for p; do
		f=$(readlink -f "$(command -v "$p")"); list+=("$f:/usr/bin/$p")
		while read -r f; do
			[ -n "${seen[$f]:-}" ] || { seen[$f]=1; list+=("$(readlink -f "$f"):$f"); }
		done < <(ldd "$f" 2>/dev/null | grep -o '/[^ ]*')
	done
}

image_netshoot() {
	local p f files=() d=$LAB/images/netshoot
	local -A had
	# shellcheck disable=SC2086 # a list of words
	with_libraries files had $NETSHOOT busybox
	for p in busybox $APPLETS; do files+=("/usr/bin/busybox->:/bin/$p"); done
	files+=("$d/passwd:/etc/passwd:644" "$d/group:/etc/group:644" "$d/nsswitch.conf:/etc/nsswitch.conf:644")
	for f in /etc/protocols /etc/services; do [ ! -f $f ] || files+=("$f:$f:644"); done
	mkimage -ref fairlead.lab/netshoot:1 -o "$1/image.tar" -entrypoint /bin/sh "${files[@]}"
}

# make_template: let a containerd of its own, in namespaces of its own, import
# all images. Its root is what a node's containerd starts from.
make_template() {
	cat > "$1/config.toml" <<-T
	version = 2
	root = "$1/root"
	state = "$1/state"
	disabled_plugins = ["io.containerd.grpc.v1.cri"]
	[grpc]
	  address = "$1/containerd.sock"
	T
	# shellcheck disable=SC2016,SC2086 # expanded by the inner shell; a list of words
	setpriv --pdeathsig KILL unshare --fork --kill-child --pid --mount --net --mount-proc --propagation private bash -ec '
		containerd -c "$1/config.toml" &
		ctl() { ctr -a "$1/containerd.sock" -n k8s.io "${@:2}"; }
		for i in $(seq 300); do ctl "$1" version >/dev/null 2>&1 && break; sleep 0.1; done
		for tar in "${@:2}"; do ctl "$1" images import "$tar"; done
		kill %1; wait %1 || true' _ "$1" $IMAGES
	rm -rf "$1/state" "$1/config.toml" "$1/containerd.sock"*
	[ -f "$1/root/io.containerd.metadata.v1.bolt/meta.db" ]
}

# build_images: IMAGES are the archives (words), TEMPLATE the containerd store of them
build_images() {
	local name from
	IMAGES=''
	for name in pause agnhost coredns starwars traffic netshoot; do
		# shellcheck disable=SC2086 # a list of words
		case $name in
		pause) from=$KUBETOOLS ;;
		agnhost) from=$AGNHOST ;;
		coredns) from=$COREDNS ;;
		starwars) from=$STARWARS ;;
		traffic) from=$TOOLS ;;
		netshoot) from="$(declare -f with_libraries) $(dpkg-query -W -f '${Package}=${Version} ' $NETSHOOT_PACKAGES 'busybox*' 2>/dev/null) $(cat "$LAB"/images/netshoot/*) $NETSHOOT $APPLETS" ;;
		esac
		artefact "image-$name" "$(hash_of "$from" "$KUBETOOLS" "$(declare -f "image_$name")")" "image_$name"
		IMAGES="$IMAGES $ARTEFACT/image.tar"
	done
	artefact template "$(hash_of "$IMAGES" "$(containerd --version)" "$(declare -f make_template)")" make_template
	TEMPLATE=$ARTEFACT
}

# clone_template DIR: a node's containerd root. Contents and unpacked layers
# are only ever read, so they are links; the databases are copies.
clone_template() {
	rm -rf "$1"
	cp -al "$TEMPLATE/root" "$1"
	local db
	find "$1" -type f -name '*.db' | while read -r db; do cp --remove-destination "$(readlink -f "$TEMPLATE/root/${db#"$1"/}")" "$db"; done
}
